"""Networks of this project's own: from a run's checkpoint or an exported file, into networks that differ in part."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fastmask_jax.training.checkpoints import Checkpoints
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
      FileNotFoundError, ValueError: no checkpoint there, or a damaged one, or its body is another; one line.
    """
    step, folder = _checkpoint(workdir)
    saved_model = read_workdir_config(workdir)["model"]
    try:
        arrays = _restored(folder)
    except Exception as error:  # what is damaged may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"{folder}: not a whole checkpoint ({reason}): remove {folder.parent}, and the one before it is taken"
        ) from error
    return fit_own(f"{workdir} (step {step})", arrays, saved_model, model, shapes)


def _restored(folder: Path) -> dict[str, np.ndarray]:
    """The network's arrays of a checkpoint, by name."""
    checkpointer = ocp.PyTreeCheckpointer()
    quiet = logging.getLogger("absl")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # orbax misses a file that only a checkpoint of one item has
    try:
        metadata = checkpointer.metadata(folder).item_metadata
        saved = getattr(metadata, "tree", metadata)
        if saved is None:
            raise ValueError("it does not say what it holds")
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
    return {name: np.asarray(leaf) for name, leaf in names_of(restored).items()}


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


def read_workdir_config(workdir: Path) -> dict[str, Any]:
    """The config that `train.py` left in a working directory.

    Errors:
      FileNotFoundError, ValueError: as of `parse_config`, or none there; one line that names folder or file.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir}: no config.json in it: not a working directory of train.py")
    try:
        return parse_config(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_config(text: str) -> dict[str, Any]:
    """A network's config out of JSON.

    Errors:
      ValueError: not JSON, or without the section that says what network it is; one line.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the config is not JSON: {error}") from None
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("body"), dict):
        raise ValueError("the config has no section model, or none model.body")
    return config


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
