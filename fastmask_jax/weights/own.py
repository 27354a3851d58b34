"""Networks of this project's own: from a run's checkpoint or an exported file, into networks that differ in part."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fastmask_jax.training.checkpoints import Checkpoints, load_config
from fastmask_jax.weights.fitting import Found, Shape, matching_layers, names_of, part_of

COLLECTIONS = ("params", "frozen_stats", "batch_stats")
_SAME = ("kind", "flavour")  # of a body: where these differ, equal names do not mean equal layers


def read_workdir(workdir: Path, model: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Found:
    """What fits of the best, or else the latest, checkpoint of a run.

    Args:
      workdir: of `train.py`.
      model: the `model` section of the config for which the weights are wanted.
      shapes: of that network's arrays.

    Errors:
      FileNotFoundError, ValueError: no checkpoint there, or its body is another; one line.
    """
    step, folder = _checkpoint(workdir)
    checkpointer = ocp.PyTreeCheckpointer()
    quiet = logging.getLogger("absl")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # orbax misses a file that only a checkpoint of one item has
    try:
        metadata = checkpointer.metadata(folder).item_metadata
        saved = getattr(metadata, "tree", metadata)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = {
            key: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved[key])
            for key in COLLECTIONS
        }
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        restored = checkpointer.restore(
            folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        )
    finally:
        quiet.setLevel(level)
    arrays = {name: np.asarray(leaf) for name, leaf in names_of(restored).items()}
    return fit_own(f"{workdir} (step {step})", arrays, load_config(workdir)["model"], model, shapes)


def _checkpoint(workdir: Path) -> tuple[int, Path]:
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{workdir}: no checkpoints in it: not a working directory of train.py")
    checkpoints = Checkpoints(workdir)
    step = checkpoints.best
    checkpoints.close()
    if step is None:
        raise FileNotFoundError(f"{workdir}: there is no checkpoint in it yet")
    return step, (folder / str(step) / "state").absolute()


def fit_own(
    source: str,
    arrays: Mapping[str, np.ndarray],
    saved_model: Mapping[str, Any],
    model: Mapping[str, Any],
    shapes: Mapping[str, Shape],
) -> Found:
    """What fits, layer by layer, of a network of ours: levels, necks and heads may be others, but not the body.

    Args:
      source: for messages.
      arrays: by the network's names.
      saved_model, model: `model` sections, of the network that was saved and of the one to be filled.
      shapes: of the latter's arrays.

    Errors:
      ValueError: the bodies differ, or nothing fits; names the first array or setting that differs.
    """
    for key in _SAME:
        theirs, ours = (section["body"].get(key) for section in (saved_model, model))
        if theirs != ours:
            raise ValueError(f"{source} does not fit the config: model.body.{key} is {theirs!r} there, {ours!r} here")
    saved = {name: tuple(array.shape) for name, array in arrays.items()}
    for name in sorted(saved.keys() | shapes.keys()):
        if part_of(name) == "body" and saved.get(name) != shapes.get(name):
            raise ValueError(
                f"{source} does not fit the config: {name} is {saved.get(name, 'absent')} there and "
                f"{shapes.get(name, 'absent')} in the network"
            )
    fitting, notes = matching_layers(saved, shapes)
    return Found(source, {name: arrays[name] for name in fitting}, sorted(saved.keys() - set(fitting)), notes)
