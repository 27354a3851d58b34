"""Checkpoints by orbax: saved in the background, the latest few and the best one kept."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from fastmask_jax.training.step import TrainState

BEST = "segm/AR@100"  # the reading that makes a checkpoint the best one
_FOLDER = "checkpoints"
_EXPECTED = ("Requested `tracked_metric`; did not provide", "Given directory is read only")  # orbax warns of them

logging.getLogger("absl").addFilter(lambda record: not str(record.msg).startswith(_EXPECTED))


class Checkpoints:
    """The checkpoints of a working directory, `<workdir>/checkpoints/<step>`, each with the config that made it."""

    def __init__(self, workdir: Path, config: Mapping[str, Any] | None = None, keep: int = 3) -> None:
        """
        Args:
          workdir: the run's directory; made if it is not there and `config` is given.
          config: what to store with each checkpoint; None to read only.
          keep: how many of the latest to keep, beside the best one.
        """
        self.workdir = workdir
        self._config = config
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=lambda readings: readings[BEST], n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        self._manager = ocp.CheckpointManager(
            (workdir / _FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(
                create=config is not None,
                read_only=config is None,
                save_interval_steps=0 if config is None else 1,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=lambda readings: readings[BEST],
                keep_checkpoints_without_metrics=True,
            ),
            item_handlers={"state": ocp.PyTreeCheckpointHandler(), "config": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest(self) -> int | None:
        """Step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the highest `BEST` reading; the latest one where none was evaluated."""
        return self._manager.best_step() if self._scored() else self.latest

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints."""
        return sorted(self._manager.all_steps())

    def _scored(self) -> bool:
        return any(self._manager.metrics(step) for step in self._manager.all_steps())

    def save(self, state: TrainState, readings: Mapping[str, float] | None = None) -> None:
        """Begins to save; training may go on. A step that is saved already is left as it is."""
        step = int(state.step)
        if step == self.latest:
            return
        if jax.process_count() > 1:  # orbax wants arrays that all processes own
            state = jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), config=ocp.args.JsonSave(dict(self._config))),
            metrics=None if readings is None or math.isnan(readings[BEST]) else {BEST: float(readings[BEST])},
        )

    def drop(self, step: int) -> None:
        """Deletes the checkpoint of a step, if there is one."""
        self.wait()
        if step in self.steps:
            self._manager.delete(step)

    def changes(self, step: int) -> list[str]:
        """Settings in which this config differs from that of the checkpoint: "section.key: old → new"."""
        saved = _flat(self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"])
        now = _flat(json.loads(json.dumps(self._config)))
        return [
            f"{key}: {saved.get(key, 'absent')} → {now.get(key, 'absent')}"
            for key in sorted(saved.keys() | now.keys())
            if saved.get(key) != now.get(key)
        ]

    def restore(self, template: TrainState, step: int) -> TrainState:
        """The state saved at `step`, as arrays on the first device.

        Errors:
          ValueError: the checkpoint's network is not that of `template`; names the first array that differs.
        """
        return self._restore(template, step)

    def restore_variables(self, template: Mapping[str, Any], step: int) -> dict[str, Any]:
        """The model's collections saved at `step`; the optimiser's state is not read. Errors: as in `restore`."""
        return self._restore(dict(template), step)

    def _restore(self, template: Any, step: int) -> Any:
        self.check(template, step)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), template)
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        return self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]

    def check(self, template: Any, step: int) -> None:
        """ValueError where names or shapes at `step` differ from those of `template`, a state or a part of one."""
        found = self._manager.item_metadata(step)["state"]
        saved, wanted = _shapes(getattr(found, "tree", found)), _shapes(template)
        asked = {name.split("/")[0] for name in wanted}
        saved = {name: shape for name, shape in saved.items() if name.split("/")[0] in asked}
        where = f"{self.workdir / _FOLDER / str(step)}"
        for name in sorted(saved.keys() | wanted.keys(), key=lambda name: (not name.startswith("params/"), name)):
            if saved.get(name) != wanted.get(name):
                raise ValueError(
                    f"{where} does not fit the config: {name} is {saved.get(name, 'absent')} in the checkpoint and "
                    f"{wanted.get(name, 'absent')} in the network; give the config of that run, or another --workdir"
                )

    def wait(self) -> None:
        """Returns when what was begun is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def save_config(workdir: Path, config: ConfigDict) -> None:
    """Leaves the config as it was used in `<workdir>/config.json`; weights.own.read_workdir_config reads it."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
