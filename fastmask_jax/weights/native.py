"""Loads networks of this project, from a run or an exported file, into networks that may differ in some layers."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fastmask_jax.errors import InvalidInput, MissingFile, printable, shown
from fastmask_jax.foreign_json import DECODER
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.weights.mapping import Found, Shape, matching_layers, part_of
from fastmask_jax.weights.renamed import current_config

if TYPE_CHECKING:
    from fastmask_jax.weights.checkpoints import Checkpoints

COLLECTIONS = ("params", "frozen_stats", "batch_stats")
_SAME = ("kind", "flavor")  # settings of a body that must agree for equal names to mean equal layers


def read_workdir(workdir: Path, model: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Found:
    """Reads the arrays that fit from the best checkpoint of a run, or from the latest if none was evaluated.

    Args:
      workdir: working directory of `train.py`.
      model: the `model` section of the config of the network to fill.
      shapes: shapes of that network's arrays.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, no undamaged one, or another body; one line.
    """
    with closing(_opened(workdir)) as checkpoints:

        def read(step: int) -> tuple[dict[str, jax.Array], dict[str, Any]]:
            return checkpoints.arrays(step, COLLECTIONS, averaged=True), checkpoints.config(step)

        found = checkpoints.best_whole(read)
    if found is None:
        raise MissingFile(f"{workdir}: there is no checkpoint in it yet")
    step, (restored, config) = found
    saved_model = check_saved_config(config)["model"]
    arrays = {name.replace("/", "."): np.asarray(array) for name, array in restored.items()}
    return fit_native(f"{workdir} (step {step})", arrays, saved_model, model, shapes)


def restore_model(config: ConfigDict, workdir: Path, step: int | None = None) -> tuple[FastMask, dict[str, Any], int]:
    """Restores (network, variables, step) from the checkpoint of `step`, or the best undamaged one, or the latest.

    Raises:
      FileNotFoundError: no checkpoint, or none of that step.
      DamagedCheckpoint: the checkpoint of `step`, or every checkpoint, is damaged.
      ValueError: the checkpoint does not fit the config's network; names the first array that differs.
    """
    if not (workdir / "checkpoints").is_dir():
        raise MissingFile(f"--workdir: no checkpoints in {workdir}; train.py makes them there")
    checkpoints = _checkpoints(workdir)
    model = build_model(config.model.to_dict())
    template = jax.eval_shape(lambda: initial_variables(model, 0))

    def read(step: int) -> dict[str, Any]:
        return checkpoints.restore(template, step, averaged=True)

    if step is not None and step not in checkpoints.steps:
        raise MissingFile(f"{workdir}: no checkpoint of step {step}; there are {checkpoints.steps}")
    found = checkpoints.best_whole(read) if step is None else (step, read(step))
    checkpoints.close()
    if found is None:
        raise MissingFile(f"{workdir}: there is no checkpoint in it yet")
    return model, found[1], found[0]


def read_workdir_config(workdir: Path) -> dict[str, Any]:
    """Reads the config of the latest checkpoint with an undamaged one from a working directory of `train.py`.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, no undamaged one, or no config of a network; one line.
    """
    with closing(_opened(workdir)) as checkpoints:
        config, latest = checkpoints.latest_config(), checkpoints.latest
        if config is None and latest is not None:
            config = checkpoints.config(latest)  # which says what is wrong
    if config is None:
        raise MissingFile(f"{workdir}: there is no checkpoint in it yet")
    try:
        return check_saved_config(config)
    except ValueError as error:
        raise InvalidInput(f"{workdir}: {error}") from None


def _opened(workdir: Path) -> "Checkpoints":
    if not (workdir / "checkpoints").is_dir():
        raise MissingFile(f"{workdir}: no checkpoints in it: not a working directory of train.py")
    return _checkpoints(workdir)


def _checkpoints(workdir: Path) -> "Checkpoints":
    from fastmask_jax.weights.checkpoints import Checkpoints  # imports orbax, which weights in files do not need

    return Checkpoints(workdir)


def parse_config(text: str) -> dict[str, Any]:
    """Parses a network's config from JSON.

    Raises:
      ValueError: not JSON, or without a model section; one line.
    """
    try:
        config = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the config is not JSON: {error}") from None
    return check_saved_config(config)


def check_saved_config(config: Any) -> dict[str, Any]:
    """Returns a network's config with current keys.

    Raises:
      ValueError: it has no model section; one line.
    """
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("body"), dict):
        raise InvalidInput("the config has no section model, or none model.body")
    return current_config(config)


def fit_native(
    source: str,
    arrays: Mapping[str, np.ndarray],
    saved_model: Mapping[str, Any],
    model: Mapping[str, Any],
    shapes: Mapping[str, Shape],
) -> Found:
    """Selects the arrays that fit, layer by layer: levels, necks and heads may differ, but not the body.

    Args:
      source: name of the source, for messages.
      arrays: arrays by the network's names.
      saved_model, model: `model` sections of the saved network and of the network to fill.
      shapes: shapes of the latter's arrays.

    Raises:
      ValueError: the bodies differ, or nothing fits; names the first array or setting that differs.
    """
    for key in _SAME:
        theirs, ours = (section["body"].get(key) for section in (saved_model, model))
        if theirs != ours:
            raise InvalidInput(
                f"{source} does not fit the config: model.body.{key} is {shown(theirs)} there, {shown(ours)} here"
            )
    saved = {name: tuple(array.shape) for name, array in arrays.items()}
    for name in sorted(saved.keys() | shapes.keys()):
        if part_of(name) == "body" and saved.get(name) != shapes.get(name):
            raise InvalidInput(
                f"{source} does not fit the config: {printable(name)} is {saved.get(name, 'absent')} there and "
                f"{shapes.get(name, 'absent')} in the network"
            )
    fitting, notes = matching_layers(saved, shapes)
    return Found(source, {name: arrays[name] for name in fitting}, sorted(saved.keys() - set(fitting)), notes)
