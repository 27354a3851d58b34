"""Prefetches the encoded images of a shard: image files, Parquet rows, or members of a tar."""

import gzip
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastmask_jax.bulk.inputs import kind_by_suffix, line_of
from fastmask_jax.bulk.plan import Shard
from fastmask_jax.bulk.storage import absolute, locate
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.ordered_map import ordered_map

THREADS = 16  # files fetched in parallel: a request to an object store takes tens of milliseconds
_ROWS = 16  # rows of a Parquet file that are decoded at a time
_BLOCK = 512  # bytes of a tar record; two records of zeros end the file
_BINARY = (pa.types.is_binary, pa.types.is_large_binary)
_TEXT = (pa.types.is_string, pa.types.is_large_string)


@dataclass(frozen=True)
class ImageFile:
    """An encoded image, or the reason why it is missing; an image for `ProposalGenerator.propose_iter`.

    Attributes:
      image_id: unique name in the dataset.
      data: the encoded image.
      problem: why `data` is empty; "" if it is not.
      refused: whether the storage failed as a whole, for example because of wrong credentials or no connection.
    """

    image_id: str
    data: bytes
    problem: str = ""
    refused: bool = False

    def __str__(self) -> str:
        return self.image_id

    def read_bytes(self) -> bytes:
        """Returns `data`; raises ValueError with the problem if there is none."""
        if self.problem:
            raise InvalidInput(self.problem)
        return self.data


@dataclass(frozen=True)
class Columns:
    """Columns of Parquet input.

    Attributes:
      image: column of encoded images (binary), their addresses (string, relative to the Parquet file), or structs with
        the fields `bytes` and `path`, as written by Hugging Face's datasets.
      image_id: column of integers or strings, unique in the dataset; None: the file name and the row number.
    """

    image: str = "image"
    image_id: str | None = None


def images_of(shard: Shard, columns: Columns) -> Iterator[ImageFile]:
    """Yields the images of a shard in a fixed order; reads a few ahead.

    An image that cannot be read is yielded with its problem, and so is the missing rest of a truncated tar.

    Raises:
      ValueError: a Parquet file without these columns; one line.
    """
    if shard.kind == "image":
        return ordered_map(_fetched, zip(shard.names, shard.addresses, strict=True), THREADS)
    if shard.kind == "tar":
        return _of_tar(shard.names[0], shard.addresses[0])
    return _of_parquet(shard, columns)


def _fetched(file: tuple[str, str]) -> ImageFile:
    name, address = file
    try:
        fs, path = locate(address)
        return ImageFile(name, fs.cat_file(path))
    except Exception as error:  # every file system has its own
        alone = isinstance(error, FileNotFoundError | IsADirectoryError)
        return ImageFile(name, b"", "no such file" if alone else line_of(error), refused=not alone)


def _of_parquet(shard: Shard, columns: Columns) -> Iterator[ImageFile]:
    name, address = shard.names[0], shard.addresses[0]
    fs, path = locate(address)
    folder = address.rpartition("/")[0]
    with fs.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        schema = file.schema_arrow
        for column in filter(None, (columns.image, columns.image_id)):
            if column not in schema.names:
                raise InvalidInput(
                    f"{address}: no column {column!r}; it has {', '.join(schema.names)} (--image_column, --id_column)"
                )
        _check_type(address, columns.image, schema.field(columns.image).type)
        first = sum(file.metadata.row_group(group).num_rows for group in range(shard.row_groups[0]))
        wanted = [columns.image, *filter(None, [columns.image_id])]

        def rows() -> Iterator[tuple[str, Any]]:
            number = first
            for batch in file.iter_batches(_ROWS, row_groups=shard.row_groups, columns=wanted):
                for row in batch.to_pylist():
                    given = row[columns.image_id] if columns.image_id else f"{name}:{number}"
                    yield str(given), row[columns.image]
                    number += 1

        def fetched(row: tuple[str, Any]) -> ImageFile:
            image_id, image = row
            if isinstance(image, dict):
                image = image.get("bytes") or image.get("path")
            if isinstance(image, str):
                inside = image.startswith("/") or "://" in image
                return _fetched((image_id, absolute(image if inside else f"{folder}/{image}")))
            return ImageFile(image_id, image or b"", "" if image else "the row has no image")

        yield from ordered_map(fetched, rows(), THREADS)


def _check_type(address: str, column: str, kind: pa.DataType) -> None:
    if any(is_one(kind) for is_one in _BINARY + _TEXT):
        return
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        return
    raise InvalidInput(
        f"{address}: column {column!r} is {kind}: expected binary (encoded images), string (addresses), or a struct "
        "with bytes and path"
    )


class _Counted:
    """A file that is read sequentially and remembers whether its last bytes are zeros."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._end = b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._end = (self._end + data)[-2 * _BLOCK :]
        return data

    def ended(self) -> bool:
        while self.read(1 << 20):
            pass
        return len(self._end) == 2 * _BLOCK and not any(self._end)


def _of_tar(name: str, address: str) -> Iterator[ImageFile]:
    fs, path = locate(address)
    with fs.open(path, "rb") as opened:
        stream = _Counted(opened if address.endswith(".tar") else gzip.GzipFile(fileobj=opened))
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    hidden = PurePosixPath(member.name).name.startswith(".")
                    if member.isfile() and not hidden and kind_by_suffix(member.name) == "image":
                        yield ImageFile(f"{name}/{member.name}", tar.extractfile(member).read())
            whole = stream.ended()
            problem = "the tar has no end: it is cut off, or was written without its closing zeros"
        except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
            whole, problem = False, f"the rest of the tar is not readable ({line_of(error)})"
        if not whole:
            yield ImageFile(name, b"", problem)
