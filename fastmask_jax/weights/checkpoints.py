"""Checkpoints by orbax: saved in the background, the latest few and the best one kept."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from fastmask_jax.errors import InvalidInput
from fastmask_jax.weights.renamed import current_config, current_name

BEST = "segm/AR@100"  # the metric that makes a checkpoint the best one
_FOLDER = "checkpoints"
_AVERAGE = "average"  # field of the state


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
                get_metric_fn=lambda metrics: metrics[BEST], n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        self._manager = ocp.CheckpointManager(
            (workdir / _FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(
                create=config is not None,
                read_only=config is None,
                save_interval_steps=0 if config is None else 1,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=lambda metrics: metrics[BEST],
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
        """Step of the checkpoint with the highest `BEST` metric; the latest one where none was evaluated."""
        return self._manager.best_step() if self._scored() else self.latest

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints."""
        return sorted(self._manager.all_steps())

    def _scored(self) -> bool:
        return any(self._manager.metrics(step) for step in self._manager.all_steps())

    def save(self, state: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Begins to save; training may go on. A step that is saved already is left as it is.

        Args:
          state: a pytree with the attribute `step`, such as training.step.TrainState.
          metrics: of an evaluation of it; None: it was not evaluated.
        """
        step = int(state.step)
        if step == self.latest:
            return
        if jax.process_count() > 1:  # orbax wants arrays that all processes own
            state = jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, state)
        else:  # one of the equal copies: before jax 0.8 pmap returns a sharding that orbax does not know
            state = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), config=ocp.args.JsonSave(dict(self._config))),
            metrics=None if metrics is None or math.isnan(metrics[BEST]) else {BEST: float(metrics[BEST])},
        )

    def drop(self, step: int) -> None:
        """Deletes the checkpoint of a step, if there is one."""
        self.wait()
        if step in self.steps:
            self._manager.delete(step)

    def changes(self, step: int) -> list[str]:
        """Settings in which this config differs from that of the checkpoint: "section.key: old → new"."""
        restored = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))
        saved = _flat(current_config(restored["config"]))
        now = _flat(current_config(json.loads(json.dumps(self._config))))
        return [
            f"{key}: {saved.get(key, 'absent')} → {now.get(key, 'absent')}"
            for key in sorted(saved.keys() | now.keys())
            if saved.get(key) != now.get(key)
        ]

    def restore(self, template: Any, step: int, averaged: bool = False) -> Any:
        """The state, or some of its fields, saved at `step`, as arrays on the first device.

        Args:
          template: a pytree of arrays or their shapes; what it lacks is not read.
          step: of a checkpoint.
          averaged: for `params`, read their moving average where one was kept: the weights for inference.

        Errors:
          ValueError: the checkpoint's network is not that of `template`; names the first array that differs.
        """
        self.check(template, step)
        wanted = _shapes(template)
        arrays = self.arrays(step, {name.partition("/")[0] for name in wanted}, averaged)
        return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])

    def arrays(self, step: int, fields: Iterable[str], averaged: bool = False) -> dict[str, jax.Array]:
        """Arrays in some fields of the state saved at `step`, by name ("params/body/stem/kernel"), on one device.

        `averaged`: as for `restore`.
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
        restored = self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        if averaged:
            restored["params"] = restored.pop(_AVERAGE)
        return {current_name(name, "/"): array for name, array in _leaves(restored).items()}

    def _saved(self, step: int) -> dict[str, Any]:
        """Shapes and dtypes of the state saved at `step`."""
        found = self._manager.item_metadata(step)["state"]
        saved = getattr(found, "tree", found)
        if saved is None:
            raise ValueError("it does not say what it holds")
        return saved

    def check(self, template: Any, step: int) -> None:
        """ValueError where names or shapes at `step` differ from those of `template`, a state or a part of one."""
        saved = {current_name(name, "/"): shape for name, shape in _shapes(self._saved(step)).items()}
        wanted = _shapes(template)
        asked = {name.split("/")[0] for name in wanted}
        saved = {name: shape for name, shape in saved.items() if name.split("/")[0] in asked}
        where = f"{self.workdir / _FOLDER / str(step)}"
        for name in sorted(saved.keys() | wanted.keys(), key=lambda name: (not name.startswith("params/"), name)):
            if saved.get(name) != wanted.get(name):
                raise InvalidInput(
                    f"{where} does not fit the config: {name} is {saved.get(name, 'absent')} in the checkpoint and "
                    f"{wanted.get(name, 'absent')} in the network; give the config of that run, or another --workdir"
                )

    def wait(self) -> None:
        """Returns when what was begun is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a tree, or what describes them, by name, in the tree's order."""
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
    """Leaves the config as it was used in `<workdir>/config.json`; weights.native.read_workdir_config reads it."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
