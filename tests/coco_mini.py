"""Location of real COCO images for the tests: next to the repository, or the environment variable COCO_MINI."""

import os
from pathlib import Path

import pytest

_PLACE = Path(os.environ.get("COCO_MINI") or Path(__file__).parents[2] / "shared" / "data" / "coco_mini")

COCO_MINI: Path | None = _PLACE if (_PLACE / "annotations" / "instances_val.json").is_file() else None

needs_coco_mini = pytest.mark.skipif(COCO_MINI is None, reason=f"no COCO images at {_PLACE} (set COCO_MINI)")
