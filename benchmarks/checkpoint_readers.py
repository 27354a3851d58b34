"""Reads a run as train.py does to resume, as evaluate.py does, and as predict.py does (for checkpoint_damage.py).

Importing this traces the network once: what JAX then knows of its functions saves a process that is forked from the
importing one half its time. It starts no backend, which a fork would not survive.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fastmask_jax.configuration import run_command
from fastmask_jax.models.build import build_model
from fastmask_jax.training.loop import with_batch_of_run
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import TrainState, create_state
from fastmask_jax.weights.checkpoints import Checkpoints
from fastmask_jax.weights.damage import checksums
from fastmask_jax.weights.native import restore_model
from fastmask_jax.weights.sources import config_of, load_trained
from tests import tiny


def resumed(run: Path, config: ConfigDict) -> Any:
    """What train.py begins with."""
    config = with_batch_of_run(config, run)
    checkpoints = Checkpoints(run, config.to_dict())
    found = checkpoints.resume(_shapes(config))
    for line in found.passed_over:
        print(line)
    checkpoints.close()
    return found.state


def _shapes(config: ConfigDict) -> TrainState:
    optimizer, _ = build_optimizer(config.optimizer.to_dict(), config.train.batch_size, config.train.images)
    return jax.eval_shape(partial(create_state, build_model(config.model.to_dict()), optimizer, config.seed, False))


def evaluated(run: Path, config: ConfigDict) -> Mapping[str, Any]:
    """What evaluate.py begins with."""
    return restore_model(config, run)[1]


def predicted(run: Path, config: ConfigDict) -> Mapping[str, Any]:
    """What predict.py begins with."""
    return load_trained(str(run), config_of(str(run)).model.to_dict()).variables


READERS = {"train": resumed, "evaluate": evaluated, "predict": predicted}


def read(reader: str, run: Path, config: ConfigDict, written: Path, digests: Path) -> None:
    """Reads a run and ends this process; writes all output to one file, the checksums of the arrays to another."""
    with written.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)

    def checked() -> int:
        leaves = jax.tree_util.tree_leaves_with_path(READERS[reader](run, config))
        digests.write_text(json.dumps(checksums({jax.tree_util.keystr(path): leaf for path, leaf in leaves})))
        return 0

    try:
        sys.exit(run_command(checked))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


_shapes(tiny.config(Path("data")))
