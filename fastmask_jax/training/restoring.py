"""A trained network from a working directory."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.training.checkpoints import Checkpoints


def restore_model(config: ConfigDict, workdir: Path, step: int | None = None) -> tuple[FastMask, dict[str, Any], int]:
    """(network, its variables, step) of a checkpoint: that of `step`, or the best, or the latest.

    Errors:
      FileNotFoundError: no checkpoint there, or not of that step.
      ValueError: the checkpoint does not fit the config's network; names the first array that differs.
    """
    if not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"--workdir: no checkpoints in {workdir}; train.py makes them there")
    checkpoints = Checkpoints(workdir)
    found = checkpoints.best if step is None else step
    if found is None or found not in checkpoints.steps:
        raise FileNotFoundError(f"{workdir}: no checkpoint of step {found}; there are {checkpoints.steps}")
    model = build_model(config.model.to_dict())
    variables = checkpoints.restore_variables(jax.eval_shape(lambda: initial_variables(model, 0)), found)
    checkpoints.close()
    return model, variables, found
