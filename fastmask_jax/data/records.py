"""Reads records by number, from any number of processes."""

import importlib.util
import operator
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float32, Int32, Int64

from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.local_files import correct_local_files

INDEX = "index.npz"

correct_local_files()


def check_array_record() -> None:
    """Raises ValueError if array_record, the format of the records, is not installed; one line with the remedy."""
    if importlib.util.find_spec("array_record") is None:
        raise InvalidInput(
            "records need array_record, which is not installed: pip install array_record; it has no release for "
            "Windows: prepare data and train in WSL2 there (docs/install.md)"
        )


class Record(NamedTuple):
    """An image with n objects, including crowds, in pixels of the image file."""

    image_id: int
    file_name: str
    height: int
    width: int
    image_bytes: bytes  # the encoded file; `image_file.decode_image` decodes it
    object_ids: Int64[np.ndarray, "n"]
    boxes: Float32[np.ndarray, "n 4"]  # x, y, w, h
    areas: Float32[np.ndarray, "n"]
    crowd: Bool[np.ndarray, "n"]
    rles: list[dict[str, Any]]  # {"size": [height, width], "counts": bytes}, as in pycocotools
    partly_labeled: bool = False  # there may be unlabeled objects


class RecordIndex(NamedTuple):
    """Properties of all N records, in order, without reading them."""

    image_id: Int64[np.ndarray, "N"]
    height: Int32[np.ndarray, "N"]
    width: Int32[np.ndarray, "N"]
    objects: Int32[np.ndarray, "N"]  # crowds not counted


class RecordSource:
    """Random access to the records of a directory; picklable, and opened separately in every process."""

    def __init__(self, directory: Path | str) -> None:
        """Reads the index; the records are opened on first access.

        Raises:
          FileNotFoundError: the directory contains no (finished) records.
          ValueError: its index is damaged, or array_record is not installed.
        """
        check_array_record()
        self.directory = Path(directory)
        path = self.directory / INDEX
        if not path.exists():
            raise MissingFile(
                f"{self.directory}: no records here; create them with prepare.py (see python prepare.py -h)"
            )
        try:
            with np.load(path) as arrays:
                self.index = RecordIndex(**{name: arrays[name] for name in RecordIndex._fields})
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise InvalidInput(f"{path}: damaged index ({error}); build the records again with --overwrite") from None

    def __repr__(self) -> str:
        return f"RecordSource({str(self.directory)!r})"

    def __len__(self) -> int:
        return len(self.index.image_id)

    def __getitem__(self, number: SupportsIndex) -> Record:
        """Returns record `number`, 0 … len − 1.

        Raises:
          IndexError: there is no such record.
          FileNotFoundError: a file of the records is missing.
        """
        number = operator.index(number)
        if not 0 <= number < len(self):
            raise IndexError(f"{self.directory}: record {number} of {len(self)}")
        example = self._examples[number]
        objects = example["objects"]
        height, width = example["image/height"], example["image/width"]
        return Record(
            image_id=int(example["image/id"]),
            file_name=example["image/filename"].decode(),
            height=int(height),
            width=int(width),
            image_bytes=example["image"],
            object_ids=np.asarray(objects["id"], np.int64),
            boxes=np.asarray(objects["bbox"], np.float32).reshape(-1, 4),
            areas=np.asarray(objects["area"], np.float32),
            crowd=np.asarray(objects["is_crowd"], np.bool_),
            rles=[{"size": [int(height), int(width)], "counts": bytes(c)} for c in objects["counts"]],
        )

    @cached_property
    def _examples(self) -> Any:
        builder = tfds.builder_from_directory(self.directory)
        (split,) = builder.info.splits
        for shard in builder.info.splits[split].filepaths:
            if not shard.exists():
                raise MissingFile(f"{shard}: missing; build the records again with --overwrite")
        return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_examples"}


class RecordSet(NamedTuple):
    """One of several sets of records for training."""

    source: RecordSource
    weight: float  # how often each image is shown in an epoch; 0.25: every fourth epoch
    partly_labeled: bool


class MixedRecords:
    """Concatenates several sets of records: random access, picklable.

    Attributes:
      index: of all records, set after set.
      weights: float64[N], how often each record is shown per epoch.
    """

    def __init__(self, sets: Sequence[RecordSet]) -> None:
        self._sets = list(sets)
        self._starts = np.cumsum([0, *(len(one.source) for one in sets)])
        self.index = RecordIndex(*map(np.concatenate, zip(*(one.source.index for one in sets), strict=True)))
        self.weights = np.repeat([float(one.weight) for one in sets], np.diff(self._starts))

    def __repr__(self) -> str:
        return f"MixedRecords({[one.source for one in self._sets]!r})"

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: SupportsIndex) -> Record:
        """Returns record `number`, 0 … len − 1; raises as `RecordSource`."""
        number = operator.index(number)
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        one = self._sets[which]
        return one.source[number - int(self._starts[which])]._replace(partly_labeled=one.partly_labeled)
