"""Formats tables of average recall, with published results, as text and as Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COLUMNS = (
    ("AR@10", "segm/AR@10"),
    ("AR@100", "segm/AR@100"),
    ("AR@1000", "segm/AR@1000"),
    ("S@100", "segm/AR_small@100"),
    ("M@100", "segm/AR_medium@100"),
    ("L@100", "segm/AR_large@100"),
    ("box AR@10", "bbox/AR@10"),
    ("@100", "bbox/AR@100"),
    ("@1000", "bbox/AR@1000"),
)
SECONDS = "s/image"
MISSING = "–"


class Row(NamedTuple):
    """A line of a table.

    Attributes:
      name: name of the method or run.
      figures: metrics by the keys of `average_recall`; missing, None or NaN is shown as "–".
      seconds: seconds per image; None if not measured.
      note: hardware of the time measurement.
    """

    name: str
    figures: Mapping[str, float | None]
    seconds: float | None = None
    note: str = ""


def _published(
    name: str,
    segments: Sequence[float | None],
    boxes: Sequence[float | None],
    seconds: float | None = None,
    device: str = "",
) -> Row:
    keys = ("AR@10", "AR@100", "AR@1000")
    figures = {f"segm/{key}": figure for key, figure in zip(keys, segments, strict=True)}
    figures |= {f"bbox/{key}": figure for key, figure in zip(keys, boxes, strict=True)}
    return Row(name, figures, seconds, device)


_NONE = (None, None, None)
# COCO val2014, first 5000 images, as quoted in the tables of later papers; the segment AR@10 of FastMask is from its
# authors.
PUBLISHED = (
    _published("MCG", (0.077, 0.186, 0.299), (0.101, 0.246, 0.398), 45.0),
    _published("DeepMask", (0.126, 0.245, 0.331), _NONE),
    _published("DeepMaskZoom", (0.127, 0.261, 0.366), (0.191, 0.378, 0.511), 1.35, "Titan X"),
    _published("SharpMask", (0.156, 0.276, 0.355), (0.198, 0.367, 0.490), 1.03, "Titan X"),
    _published("SharpMaskZoom", (None, 0.303, 0.392), (0.202, 0.397, 0.533), 2.02, "Titan X"),
    _published("InstanceFCN", (0.166, 0.317, 0.392), _NONE),
    _published("FastMask (ResNet-50), published", (0.169, None, None), (0.227, 0.430, 0.568), 0.33, "Titan X"),
    _published("AttentionMask-8-128", _NONE, (0.214, 0.426, 0.570), 0.22, "Titan X"),
    _published("FPN mask proposals", (None, None, 0.481), _NONE, 0.25, "M40"),
)
PUBLISHED_FASTMASK = PUBLISHED[6]


def _figure(value: float | None) -> str:
    return MISSING if value is None or math.isnan(value) else f"{value:.3f}".removeprefix("0")


def _seconds(row: Row) -> str:
    if row.seconds is None or math.isnan(row.seconds):
        return MISSING
    text = f"{row.seconds:.3g}".removeprefix("0")
    return f"{text} ({row.note})" if row.note else text


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    head = ["", *(title for title, _ in COLUMNS), SECONDS]
    return [head, *([row.name, *(_figure(row.figures.get(key)) for _, key in COLUMNS), _seconds(row)] for row in rows)]


def text_table(rows: Sequence[Row]) -> str:
    """Formats an aligned table for the console; segments first, then boxes."""
    cells = _cells(rows)
    widths = [max(len(line[c]) for line in cells) for c in range(len(cells[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: Sequence[Row]) -> str:
    """Formats the same table in Markdown."""
    head, *body = (f"| {' | '.join(line)} |" for line in _cells(rows))
    rule = "|---|" + "---:|" * (len(COLUMNS) + 1)
    return "\n".join([head, rule, *body])
