"""Reads and writes COCO results files entry by entry: 1000 proposals of 5000 images need not fit into memory."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from fastmask_jax.errors import InvalidInput, MissingFile, shown
from fastmask_jax.foreign_json import DECODER, number_of, whole_number
from fastmask_jax.masks.rle import ScoredMasks

CATEGORY = 1  # proposals have no class, but the format needs one
CHUNK = 1 << 22  # characters read at a time
LONGEST_ENTRY = 1 << 26  # longer entries are treated as broken JSON
_SEPARATOR = re.compile(r"[\s,]*")
_Writer = TypeVar("_Writer", bound="JsonListWriter")


def result_entries(image_id: int, proposals: ScoredMasks) -> list[dict]:
    """Returns the proposals of one image as entries of a COCO results file."""
    scores = [float(text) for text in proposals.scores.astype(str)]  # the shortest text that gives the float32
    return [
        {"image_id": int(image_id), "category_id": CATEGORY, "segmentation": mask, "score": score, "bbox": box}
        for score, box, mask in zip(scores, proposals.boxes.tolist(), proposals.segmentations, strict=True)
    ]


class JsonListWriter:
    """Writes a JSON list, one entry per line, with at most one entry in memory.

    Entries go to `<path>.part`, which is renamed to `path` when the `with` block ends without an error, so that `path`
    is always complete. After an error the part remains until the next writer replaces it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.entries = 0
        self._part = self.path.with_name(self.path.name + ".part")

    def __enter__(self: _Writer) -> _Writer:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("w", encoding="ascii")
        self._file.write("[")
        return self

    def append(self, entry: Mapping[str, Any]) -> None:
        self._append(json.dumps(entry, separators=(",", ":")))

    def append_all(self, path: Path) -> None:
        """Appends the entries of a file that this class wrote."""
        with path.open(encoding="ascii") as file:
            for line in file:
                if line.startswith("{"):  # skips the list's brackets
                    self._append(line.rstrip(",\n"))

    def _append(self, text: str) -> None:
        self._file.write(",\n" if self.entries else "\n")
        self._file.write(text)
        self.entries += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write("\n]\n")
        self._file.close()
        if kind is None:
            self._part.replace(self.path)


class ResultsWriter(JsonListWriter):
    """Writes a COCO results file."""

    def write(self, image_id: int, proposals: ScoredMasks) -> None:
        """Appends the proposals of one image."""
        for entry in result_entries(image_id, proposals):
            self.append(entry)


def read_results(path: str | os.PathLike) -> Iterator[dict]:
    """Yields the validated entries of a COCO results file of any system, in order.

    Every entry has an integer "image_id", a finite "score", and a "segmentation" (compressed or uncompressed RLE, or
    polygons) or a "bbox" (x, y, width, height), or both.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a list of such entries; names the file and the number of the entry, counted from 0.
    """
    for number, entry in enumerate(_entries(Path(path))):
        yield valid_entry(entry, f"{path}: entry {number}")


def valid_entry(entry: object, where: str) -> dict:
    """Returns an entry with its image_id and score as numbers, which may stand as 7.0 or "7".

    Raises a ValueError that starts with `where` if `entry` is not a valid result (see `read_results`).
    """
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where} is {type(entry).__name__}, not an object with image_id, score and segmentation")
    missing = [key for key in ("image_id", "score") if key not in entry]
    if not is_given(entry.get("segmentation")) and not is_given(entry.get("bbox")):
        missing.append("segmentation or bbox")
    if missing:
        raise InvalidInput(f"{where} has no {', no '.join(missing)}: a results file needs them in every entry")
    image_id, score = whole_number(entry["image_id"]), number_of(entry["score"])
    if image_id is None:
        raise InvalidInput(f"{where}: image_id {shown(entry['image_id'])} is not an integer")
    if not is_finite(score):
        raise InvalidInput(f"{where}: score {shown(entry['score'])} is not a finite number")
    as_given = image_id is entry["image_id"] and score is entry["score"]
    return entry if as_given else entry | {"image_id": image_id, "score": score}


def is_finite(value: object) -> bool:
    """Returns whether a value is a number, and neither NaN nor beyond the range of float64."""
    if type(value) is float:
        return math.isfinite(value)
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer
        return False


def is_given(value: object) -> bool:
    """Returns whether a value is present and not empty; NumPy arrays have no truth value."""
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _entries(path: Path) -> Iterator[object]:
    scan = DECODER.raw_decode
    try:
        file = path.open(encoding="utf-8-sig")  # some editors write a byte order mark
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such results file; evaluate.py writes one into its workdir") from None
    number = 0

    def read() -> str:
        try:
            return file.read(CHUNK)
        except UnicodeDecodeError:
            raise InvalidInput(f"{path}: entry {number}, or one behind it, is no UTF-8 text") from None

    with file:
        text = read().lstrip()
        if not text.startswith("["):
            raise InvalidInput(f"{path}: not a COCO results file: expected a JSON list of entries")
        at = 1
        while True:
            at = _SEPARATOR.match(text, at).end()
            if text.startswith("]", at):
                return
            try:
                entry, at = scan(text, at)
            except json.JSONDecodeError as error:
                if len(text) - at > LONGEST_ENTRY:
                    raise InvalidInput(f"{path}: entry {number} is not valid JSON ({error.msg})") from None
                more = read()
                if not more:
                    what = "is truncated or not valid JSON" if at < len(text) else "is missing: the list is not closed"
                    raise InvalidInput(f"{path}: entry {number} {what}; write the file again") from None
                text, at = text[at:] + more, 0
                continue
            except RecursionError:
                raise InvalidInput(f"{path}: entry {number} is nested too deeply") from None
            yield entry
            number += 1
