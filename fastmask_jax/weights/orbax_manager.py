"""orbax's checkpoint manager as this project uses it: policy of keeping, checked metrics, and its errors."""

import json
import logging
import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fastmask_jax.errors import InvalidInput
from fastmask_jax.local_files import correct_local_files
from fastmask_jax.weights.damage import BROKEN, json_checksum

BEST = "segm/AR@100"  # the metric that makes a checkpoint the best one
JSON_ITEMS = ("config", "progress", "written")  # of a checkpoint, beside the arrays of the item "state"
CRC = "crc32"  # key of a checksum
_log = logging.getLogger(__name__)

correct_local_files()


class Manager(ocp.CheckpointManager):
    """Also opens folders with unreadable or changed metrics."""

    def metrics(self, step: int) -> dict[str, float] | None:
        """Returns the metric of an evaluated checkpoint; None, with a warning, if it is broken.

        Raises:
          PermissionError: it may not be read.
        """
        folder = Path(self.directory) / str(step)
        try:
            if "metrics" not in os.listdir(folder):
                return None
            metrics = json.loads((folder / "metrics" / "metrics").read_bytes())
            value = {BEST: float(metrics[BEST])}
            if metrics.get(CRC, json_checksum(value)) != json_checksum(value):
                raise ValueError("the value has changed since it was saved")
            return value
        except (AttributeError, KeyError, TypeError, *BROKEN, ValueError):
            _report_broken(folder)
            return None

    _get_metrics = metrics  # orbax also reads metrics when it is asked for the shapes of a checkpoint


@cache
def _report_broken(folder: Path) -> None:
    """Logs a warning, once for each checkpoint: orbax reads its metrics several times."""
    _log.warning("%s: its metrics are broken: it counts as not evaluated", folder)


def open_manager(folder: Path, keep: int | None) -> Manager:
    """Opens a folder of checkpoints.

    Args:
      folder: created if missing, unless it is only read.
      keep: number of latest checkpoints to keep, in addition to the best one; None: read-only.

    Raises:
      InvalidInput: orbax cannot use this folder.
    """
    if "**" in str(folder.absolute()):
        raise InvalidInput(
            f"--workdir {folder.parent}: orbax cannot save below a folder with ** in its name; choose another"
        )
    options = ocp.CheckpointManagerOptions(create=False, read_only=True, save_interval_steps=0)
    if keep is not None:
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[BEST], n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=1,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep), best]),
            best_fn=lambda metrics: metrics[BEST],
            keep_checkpoints_without_metrics=True,
        )
    handlers = {"state": ocp.PyTreeCheckpointHandler()}
    handlers |= {item: ocp.JsonCheckpointHandler() for item in JSON_ITEMS}
    return Manager(folder.absolute(), options=options, item_handlers=handlers)


def with_checksum(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns what `Manager.metrics` reads and checks; None without a finite `BEST`."""
    if metrics is None or math.isnan(metrics[BEST]):
        return None
    value = {BEST: float(metrics[BEST])}
    return {**value, CRC: json_checksum(value)}


def write_metrics(step: Path, metrics: Mapping[str, Any]) -> None:
    """Adds metrics, or replaces them, in the folder of a complete checkpoint; the manager must then reload.

    orbax itself writes metrics only while it saves the checkpoint.
    """
    new = step.parent.with_name(".metrics.part")
    new.mkdir(exist_ok=True)
    (new / "metrics").write_text(json.dumps(metrics))
    folder = step / "metrics"
    folder.mkdir(exist_ok=True)
    os.replace(new / "metrics", folder / "metrics")
    new.rmdir()
