"""Reads and writes proposals in Parquet files, one image per row (fastmask propose-dataset). Needs pyarrow."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from fastmask_jax.errors import InvalidInput, MissingFile, printable, shown
from fastmask_jax.foreign_json import decoded
from fastmask_jax.masks.coco_results import CATEGORY, valid_entry

SHARDS, MANIFEST = "shards", "manifest.json"  # below the folder of results
VERSION = 1
_COUNTS = b"fastmask_jax"  # key in the file's metadata
_ROWS = 100  # images per row group
_MOST = 10**12  # images or shards
_BOX = pa.list_(pa.float32(), 4)
_FIELDS = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("scores", pa.list_(pa.float32())),
    pa.field("boxes", pa.list_(_BOX)),
    pa.field("counts", pa.list_(pa.string())),
    pa.field("error", pa.string()),
]
_ATTENTION = [
    pa.field("attention", pa.list_(pa.list_(pa.float32(), 100))),
    pa.field("window_boxes", pa.list_(pa.list_(pa.int64(), 4))),
]


def schema(attention: bool) -> pa.Schema:
    """Returns the schema of the files; docs/bulk.md explains its columns."""
    return pa.schema(_FIELDS[:-1] + (_ATTENTION if attention else []) + _FIELDS[-1:])


@runtime_checkable
class ImageProposals(Protocol):
    """The fields of an image with n proposals that are written, such as of `inference.proposals.Proposals`."""

    scores: Float32[np.ndarray, "n"]
    boxes: Float32[np.ndarray, "n 4"]
    rles: list[dict[str, Any]]
    window_boxes: Int64[np.ndarray, "n 4"]
    attention: Float32[np.ndarray, "n 10 10"]
    image_size: tuple[int, int]


class Counts(NamedTuple):
    """Totals of a file, kept in its metadata."""

    images: int = 0  # rows
    errors: int = 0  # rows of unreadable images
    proposals: int = 0

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class ParquetResultsWriter:
    """Writes a results file, which is complete when the `with` block ends; holds up to 100 images in memory."""

    def __init__(self, path: Path, attention: bool, note: dict[str, str]) -> None:
        """
        Args:
          path: path of the local file.
          attention: whether to write the columns `attention` and `window_boxes`.
          note: stored in the file's metadata together with the counts; `read_note` returns both.
        """
        self.counts = Counts()
        self._schema = schema(attention)
        self._attention = attention
        self._note = note
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> "ParquetResultsWriter":
        return self

    def write(self, image_id: str, proposals: ImageProposals) -> None:
        """Adds an image."""
        height, width = proposals.image_size
        row = {
            "image_id": image_id,
            "height": height,
            "width": width,
            "scores": proposals.scores,
            "boxes": list(proposals.boxes),
            "counts": [rle["counts"] for rle in proposals.rles],
        }
        if self._attention:
            row["attention"] = list(proposals.attention.reshape(-1, 100))
            row["window_boxes"] = list(proposals.window_boxes)
        self._add(row, Counts(1, 0, len(proposals.scores)))

    def write_error(self, image_id: str, error: str) -> None:
        """Adds an image without proposals."""
        self._add({"image_id": image_id, "error": error}, Counts(1, 1, 0))

    def _add(self, row: dict[str, Any], counts: Counts) -> None:
        self._rows.append(row)
        self.counts = self.counts.plus(counts)
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            note = {**self._note, **self.counts._asdict(), "version": VERSION}
            self._writer.add_key_value_metadata({_COUNTS: json.dumps(note).encode()})
        self._writer.close()


def read_note(file: Any) -> dict[str, Any]:
    """Reads counts and note from the metadata of a results file, at its end.

    Raises:
      ValueError: not a complete results file.
    """
    try:
        return json.loads(pq.ParquetFile(file).metadata.metadata[_COUNTS])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
        raise InvalidInput(f"not a complete file of results ({str(error).splitlines()[0]})") from None


class ParquetResults:
    """The results of a folder as entries of a COCO results file; reiterable.

    Attributes:
      images: number of images in the folder.
    """

    def __init__(self, folder: Path, image_id: Callable[[str], int | None]) -> None:
        """
        Args:
          folder: output folder of fastmask propose-dataset.
          image_id: returns the COCO id of an image name; None: an unlisted image.

        Raises:
          FileNotFoundError, ValueError: no such folder, or shards are missing; one line.
        """
        self.folder = Path(folder)
        self._image_id = image_id
        path = self.folder / MANIFEST
        try:
            manifest = decoded(path.read_bytes(), path)
        except FileNotFoundError:
            raise MissingFile(f"{folder}: no {MANIFEST} there: not a folder of fastmask propose-dataset") from None
        number, complete, images = totals_of(manifest, path)
        self.images = images if complete and images is not None else 0
        self._files = [self.folder / SHARDS / shard_name(shard) for shard in range(number)]
        missing = sum(not path.exists() for path in self._files)
        if missing or not complete:
            raise InvalidInput(
                f"{folder}: {missing} of {number} shards are not there yet: run its command again to resume"
            )

    def __str__(self) -> str:
        return str(self.folder)

    def known_images(self) -> int:
        """Counts the images that have a COCO id.

        Raises:
          ValueError: two images have the same id.
        """
        seen: set[int] = set()
        for row in self._rows(["image_id"]):
            number = self._image_id(row["image_id"])
            if number in seen:
                raise InvalidInput(f"{self.folder}: {row['image_id']} and another image are both image {number}")
            if number is not None:
                seen.add(number)
        return len(seen)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows(["image_id", "height", "width", "scores", "boxes", "counts"]):
            number = self._image_id(row["image_id"])
            if number is None or row["scores"] is None:
                continue
            size = [row["height"], row["width"]]
            where = f"{self.folder}: image {printable(row['image_id'])}"
            columns = row["scores"], row["boxes"] or [], row["counts"] or []
            if len({len(column) for column in columns}) > 1:
                raise InvalidInput(f"{where} has {[len(column) for column in columns]} scores, boxes and counts")
            for score, box, counts in zip(*columns, strict=True):
                mask = {"size": size, "counts": counts}
                entry = {"image_id": number, "category_id": CATEGORY, "segmentation": mask, "score": score, "bbox": box}
                yield valid_entry(entry, where)

    def _rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        for path in self._files:
            try:
                file = pq.ParquetFile(path)
                for name in columns:
                    if _type_of(file.schema_arrow, name) != _type_of(schema(False), name):
                        raise pa.ArrowInvalid(f"column {name} is {_type_of(file.schema_arrow, name)}")
                for batch in file.iter_batches(_ROWS, columns=columns):
                    yield from batch.to_pylist()
            except (pa.ArrowInvalid, OSError) as error:
                line = str(error).splitlines()[0]
                raise InvalidInput(f"{path}: damaged ({line}); remove it and run propose-dataset again") from None


def totals_of(manifest: Any, path: object) -> tuple[int, bool, int | None]:
    """Returns the number of shards, whether all are there, and the number of images, if known, of a manifest.

    Raises:
      ValueError: not the content of a manifest; one line that names `path`.
    """
    content = manifest if isinstance(manifest, dict) else {}
    values = {key: content.get(key) for key in ("shards", "complete", "images")}
    shards, complete, images = values.values()
    if not _is_count(shards) or not isinstance(complete, bool) or not (images is None or _is_count(images)):
        said = ", ".join(f"{key}={shown(value)}" for key, value in values.items())
        raise InvalidInput(f"{path}: no manifest of fastmask propose-dataset ({said})")
    return shards, complete, images


def _type_of(columns: pa.Schema, name: str) -> pa.DataType | None:
    return columns.field(name).type if name in columns.names else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def shard_name(number: int) -> str:
    """Returns the name of the file of shard `number`, from 0."""
    return f"part-{number:06d}.parquet"
