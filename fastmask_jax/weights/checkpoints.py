"""Saves and restores checkpoints with orbax: saves in the background, keeps the latest and the best, skips damage."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from fastmask_jax.errors import InvalidInput, printable
from fastmask_jax.weights.damage import (
    DamagedCheckpoint,
    check_values,
    checksums,
    damaged,
    json_checksum,
    naming_damage,
)
from fastmask_jax.weights.orbax_manager import (
    BEST,
    CRC,
    JSON_ITEMS,
    open_manager,
    with_checksum,
    write_metrics,
)
from fastmask_jax.weights.renamed import current_config, current_name
from fastmask_jax.whole_file import whole_file

_FOLDER = "checkpoints"
_ASIDE = "damaged"  # folder of a working directory for skipped checkpoints
_AVERAGE = "average"  # field of the state
_log = logging.getLogger(__name__)

T = TypeVar("T")


class Resumed(NamedTuple):
    """The state that training resumes from."""

    step: int
    state: Any
    progress: dict[str, Any]  # as given to `save`; empty in checkpoints of earlier versions
    changes: list[str]  # settings that differ from those it was saved with: "section.key: old → new"
    passed_over: list[str]  # a line for each later checkpoint that was skipped as damaged


class Checkpoints:
    """The checkpoints of a working directory, `<workdir>/checkpoints/<step>`, each with the config that made it."""

    def __init__(self, workdir: Path, config: Mapping[str, Any] | None = None, keep: int = 3) -> None:
        """
        Args:
          workdir: directory of the run; created if missing and `config` is given.
          config: stored with each checkpoint; None: read-only.
          keep: number of latest checkpoints to keep, in addition to the best one.

        Raises:
          InvalidInput: orbax cannot use this directory.
        """
        self.workdir = workdir
        self._config = config
        self._manager = open_manager(workdir / _FOLDER, keep if config is not None else None)

    @property
    def latest(self) -> int | None:
        """Step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the highest `BEST` metric; the latest one if none was evaluated."""
        return next(filter(self._holds_state, self._by_preference()), None)

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints."""
        return sorted(self._manager.all_steps())

    def _by_preference(self) -> list[int]:
        """Returns all steps: evaluated ones from best to worst, then the others, latest first.

        A checkpoint without its state, which may have been the best one, comes before all.
        """
        metrics = {step: self._manager.metrics(step) for step in self.steps}
        worth = {step: -found[BEST] if found else math.inf for step, found in metrics.items()}
        return sorted(metrics, key=lambda step: (self._holds_state(step), worth[step], -step))

    def _folder(self, step: int) -> Path:
        return self.workdir / _FOLDER / str(step)

    def save(
        self, state: Any, metrics: Mapping[str, float] | None = None, progress: Mapping[str, Any] | None = None
    ) -> None:
        """Starts saving in the background; does nothing for a step that is saved already.

        Args:
          state: a pytree with the attribute `step`, such as training.step.TrainState.
          metrics: metrics of its evaluation; None: not evaluated.
          progress: what else a run needs to resume as if it had not stopped; anything that JSON holds.
        """
        step = int(state.step)
        if step == self.latest:
            return
        local = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, state)
        values = {"config": dict(self._config), "progress": dict(progress or {})}
        written = {"orbax": ocp.__version__, CRC: checksums(_leaves(local))}
        written |= {f"{item}_{CRC}": json_checksum(value) for item, value in values.items()}
        if jax.process_count() > 1:  # orbax needs arrays that span all processes
            local = jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, state)
        # Otherwise, one of the equal copies: before jax 0.8, pmap returns a sharding that orbax does not support.
        json_items = {item: ocp.args.JsonSave(value) for item, value in {**values, "written": written}.items()}
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(local), **json_items)
        self._manager.save(step, args=items, metrics=with_checksum(metrics))

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a later evaluation to the checkpoint of `step`."""
        self.wait()
        checked = with_checksum(metrics)
        if checked and jax.process_index() == 0:
            write_metrics(self._folder(step), checked)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("metrics are added")
        self._manager.reload()

    def resume(self, template: Any) -> Resumed | None:
        """Restores the latest undamaged checkpoint; None if there is no checkpoint.

        Later, damaged ones are moved to `<workdir>/damaged`.

        Args:
          template: as for `restore`.

        Raises:
          DamagedCheckpoint: there are checkpoints, but none is whole.
          InvalidInput: as for `restore`.
        """
        steps, found = sorted(self.steps, reverse=True), None
        lines: list[str] = []
        for step in steps:
            try:
                state, progress = self.restore(template, step), self._json(step, "progress")
                found = Resumed(step, state, progress, self.changes(step), lines)
                break
            except DamagedCheckpoint as error:
                lines.append(f"{error}; moved to {self.workdir / _ASIDE}")
        if found is None and steps:
            raise DamagedCheckpoint(
                f"{self._folder(steps[0])} and {len(steps) - 1} before it are damaged, and there is no other: "
                f"move {self.workdir / _FOLDER} away to begin anew"
            )
        if found and found.step != steps[0]:
            self._move_aside({self._folder(step): str(step) for step in steps if step > found.step})
            self._manager.reload()
        return found

    def _move_aside(self, named: Mapping[Path, str]) -> None:
        """Moves folders to `<workdir>/damaged` under the given names, after all processes have read them."""
        if not named:
            return
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are found")
        if jax.process_index() == 0:
            aside = self.workdir / _ASIDE
            aside.mkdir(exist_ok=True)
            for folder, name in named.items():
                taken = sum(path.name.partition(".")[0] == name for path in aside.iterdir())
                folder.rename(aside / (f"{name}.{taken}" if taken else name))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are moved")

    def changes(self, step: int) -> list[str]:
        """Returns the settings that differ from those of the checkpoint: "section.key: old → new"."""
        saved = _flat(self.config(step))
        now = _flat(current_config(json.loads(json.dumps(self._config))))
        return [
            f"{key}: {saved.get(key, 'absent')} → {now.get(key, 'absent')}"
            for key in sorted(saved.keys() | now.keys())
            if saved.get(key) != now.get(key)
        ]

    def latest_config(self) -> dict[str, Any] | None:
        """Returns the config of the latest checkpoint with an undamaged config."""
        for step in reversed(self.steps):
            try:
                return self.config(step)
            except DamagedCheckpoint:
                continue
        return None

    def config(self, step: int) -> dict[str, Any]:
        """Returns the config of a checkpoint, with current keys.

        Raises:
          DamagedCheckpoint and others: as of `damage.naming_damage`.
        """
        self._check_item(step, "config")
        return current_config(self._json(step, "config"))

    def _json(self, step: int, item: str) -> dict[str, Any]:
        """Returns a checked item of JSON_ITEMS; empty if the checkpoint, of an earlier version, lacks it."""
        written = {} if item == "written" else self._written(step)
        if not (self._folder(step) / item).is_dir() and f"{item}_{CRC}" not in written:
            return {}
        self._check_item(step, item)
        with naming_damage(self._folder(step), written.get("orbax")):
            value = self._manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.JsonRestore()}))[item]
        if not isinstance(value, dict) or json_checksum(value) != written.get(f"{item}_{CRC}", json_checksum(value)):
            raise damaged(self._folder(step), f"its {item} has changed since it was saved")
        return value

    def best_whole(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        """Returns (step, result of `read`) of the best undamaged checkpoint; None if there is no checkpoint.

        Each skipped checkpoint is logged as a warning.

        Raises:
          DamagedCheckpoint: there are checkpoints, but none is whole.
        """
        failure = None
        for step in self._by_preference():
            if failure:
                _log.warning("%s; step %s is taken instead", failure, step)
            try:
                self._check_item(step, "state")
                return step, read(step)
            except DamagedCheckpoint as error:
                failure = error
        if failure:
            raise failure
        return None

    def restore(self, template: Any, step: int, averaged: bool = False) -> Any:
        """Restores the state saved at `step`, or some of its fields, as arrays on the first device.

        Args:
          template: a pytree of arrays or their shapes; other arrays are not read.
          step: step of a checkpoint.
          averaged: read the moving average of `params` if it was kept: the weights for inference.

        Raises:
          InvalidInput: the checkpoint's network is not that of `template`; names the first array that differs.
          DamagedCheckpoint and others: as for `damage.naming_damage`.
        """
        self.check(template, step)
        wanted = _shapes(template)
        arrays = self.arrays(step, {name.partition("/")[0] for name in wanted}, averaged)
        return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])

    def arrays(self, step: int, fields: Iterable[str], averaged: bool = False) -> dict[str, jax.Array]:
        """Restores arrays in some fields of the state at `step`, by name ("params/body/stem/kernel"), on one device.

        `averaged`: as in `restore`.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        saved = self._saved(step)
        averaged = averaged and bool(saved.get("average"))
        fields = [_AVERAGE if averaged and field == "params" else field for field in fields]
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), {key: saved[key] for key in fields}
        )
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        with self._naming_damage(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        written = self._written(step)
        if CRC in written:
            check_values(self._folder(step), _leaves(restored), written[CRC])
        for item in JSON_ITEMS:  # a checkpoint of which any part is damaged is not used
            self._json(step, item)
        if averaged:
            restored["params"] = restored.pop(_AVERAGE)
        return {current_name(name, "/"): array for name, array in _leaves(restored).items()}

    def _saved(self, step: int) -> dict[str, Any]:
        """Returns shapes and dtypes of the state saved at `step`."""
        self._check_item(step, "state")
        with self._naming_damage(step):
            found = self._manager.item_metadata(step)["state"]
            saved = getattr(found, "tree", found)
            if saved is None:
                raise ValueError("it does not say what it holds")
        return saved

    def _holds_state(self, step: int) -> bool:
        return self._holds(step, "state")

    def _holds(self, step: int, item: str) -> bool:
        folder = self._folder(step) / item
        return folder.is_dir() and any(folder.iterdir())

    def _check_item(self, step: int, item: str) -> None:
        if not self._holds(step, item):
            raise damaged(self._folder(step), f"it holds no {item}")

    def _written(self, step: int) -> dict[str, Any]:
        """Returns the orbax version that wrote a checkpoint, and the checksums of its contents; empty in old ones."""
        return self._json(step, "written")

    def _naming_damage(self, step: int) -> AbstractContextManager[None]:
        return naming_damage(self._folder(step), self._written(step).get("orbax"))

    def check(self, template: Any, step: int) -> None:
        """Raises ValueError if names or shapes at `step` differ from those of `template`, a state or a part of one."""
        saved = {current_name(name, "/"): shape for name, shape in _shapes(self._saved(step)).items()}
        wanted = _shapes(template)
        asked = {name.split("/")[0] for name in wanted}
        saved = {name: shape for name, shape in saved.items() if name.split("/")[0] in asked}
        where = self._folder(step)
        for name in sorted(saved.keys() | wanted.keys(), key=lambda name: (not name.startswith("params/"), name)):
            if saved.get(name) != wanted.get(name):
                raise InvalidInput(
                    f"{where} does not fit the config: {printable(name)} is {saved.get(name, 'absent')} in the "
                    f"checkpoint and {wanted.get(name, 'absent')} in the network; give the config of that run, or "
                    "another --workdir"
                )

    def wait(self) -> None:
        """Waits until pending checkpoints are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of the checkpoints in a working directory, by the names of their folders.

    Unlike `Checkpoints` it opens none, and can be called in one process of several.
    """
    folder = workdir / _FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdecimal() and (path / "state").is_dir())


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {name: leaf for name, leaf in named.items() if hasattr(leaf, "shape")}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in _leaves(tree).items()}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def save_config(workdir: Path, config: ConfigDict) -> None:
    """Writes the config to `<workdir>/config.json`, for people: what is used is the copy in each checkpoint."""
    with whole_file(workdir / "config.json") as part:
        part.write_text(config.to_json_best_effort(indent=2) + "\n")
