"""Reports problems of a dataset: counts by kind and the first few cases of each."""

import json
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from fastmask_jax.errors import printable
from fastmask_jax.foreign_json import DEEPEST

EXAMPLES = 5  # examples that are listed of each kind


class Problem(StrEnum):
    """Kinds of problems. The image or object is skipped, unless the text says otherwise; the rest is used."""

    IMAGE_ENTRY = "image entry without an integer id or a file name"
    IMAGE_ID_TWICE = "image id used twice"
    IMAGE_FILE_TWICE = "image file of two image entries (both are used)"
    IMAGE_OUTSIDE_FOLDER = "file name outside the image folder"
    IMAGE_MISSING = "image file missing"
    IMAGE_BROKEN = "image file truncated or not decodable"
    IMAGE_LARGE = "image of too many pixels"
    IMAGE_NO_SIZE = "image entry with an invalid height or width (the file's are used)"
    IMAGE_SIZE = "image size differs from its entry"
    IMAGE_TURNED = "image file with an EXIF orientation, which was ignored"
    OBJECT_ENTRY = "annotation without an integer id or image_id"
    OBJECT_NESTED = f"annotation nested deeper than {DEEPEST} levels"
    OBJECT_ID_TWICE = "annotation id used twice in an image"
    OBJECT_OF_UNKNOWN_IMAGE = "annotation of an image that is not listed"
    OBJECT_OF_LOST_IMAGE = "annotation of a skipped image"
    NO_SEGMENTATION = "annotation without a segmentation"
    POLYGON = "degenerate polygon (under 3 points, odd or non-finite numbers, no area)"
    POLYGON_RELATIVE = "polygon in coordinates from 0 to 1, not in pixels"
    POLYGON_FAR = "polygon far outside its image"
    POLYGON_LONG = "polygons of an outline longer than 10 million pixels"
    RLE = "invalid run-length encoding"
    RLE_SIZE = "run-length encoding of another image size"
    OUTSIDE = "object entirely outside its image"
    EMPTY_MASK = "empty mask"
    CROWD = "iscrowd neither 0 nor 1 (0 is used)"
    AREA = "area that does not match its mask (the mask's is used)"
    BOX_ELSEWHERE = "box that does not match its mask (the mask's box is used)"
    BOX = "box invalid or outside the image (the mask's box is used)"


class ProblemReport:
    """Counts problems by kind and keeps the first `EXAMPLES` of each by name."""

    def __init__(self) -> None:
        self.counts: Counter[Problem] = Counter()
        self.examples: dict[Problem, list[str]] = {}

    def add(self, problem: Problem, where: str, times: int = 1) -> None:
        """Counts one problem (or `times` of it); `where` names the file, image or annotation."""
        self.counts[problem] += times
        named = self.examples.setdefault(problem, [])
        if len(named) < EXAMPLES:
            named.append(printable(where))

    def extend(self, found: Iterable[tuple[Problem, str]]) -> None:
        """Counts each (problem, where) of `found`."""
        for problem, where in found:
            self.add(problem, where)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def summary(self) -> str:
        """Returns one line per kind: count, text and the first few cases; empty if there are no problems."""
        lines = []
        for problem, count in self.counts.most_common():
            named = self.examples[problem]
            more = ", …" if count > len(named) else ""
            lines.append(f"{count:>8}  {problem}: {', '.join(named)}{more}")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Writes {kind: {"text", "count", "examples"}} as JSON; `{}` if there are no problems."""
        kinds = {p.name.lower(): {"text": p, "count": n, "examples": self.examples[p]} for p, n in self.counts.items()}
        path.write_text(json.dumps(kinds, indent=2) + "\n", encoding="utf-8")
