"""Divides a dataset into shards: the plan, written once, from which every process reads its part."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fastmask_jax.bulk.inputs import FoundInput, Kind
from fastmask_jax.bulk.storage import OutputFolder, locate
from fastmask_jax.errors import InvalidInput

FOLDER = "plan"
_SHARDS_OF_A_FILE = 256
_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("names", pa.list_(pa.string())),
        ("addresses", pa.list_(pa.string())),
        ("row_groups", pa.list_(pa.int32())),
    ]
)


class Shard(NamedTuple):
    """The input of one result file: some image files, row groups of a Parquet file, or a tar.

    Attributes:
      kind: kind of the input files.
      names: name of each input file (see `inputs.FoundInput`), the prefix of its image ids.
      addresses: address of each input file, for fsspec.
      row_groups: row groups of the Parquet file; empty for other kinds.
    """

    kind: Kind
    names: list[str]
    addresses: list[str]
    row_groups: list[int]


class Planned(NamedTuple):
    """Totals of a plan."""

    shards: int
    images: int | None  # None if there are tars: their images are counted when they are read


def write_plan(found: Iterable[FoundInput], out: OutputFolder, shard_images: int) -> Planned:
    """Divides inputs into shards of at most `shard_images` and writes the plan; memory does not grow with their number.

    Tars and row groups of Parquet files are never divided, so their shards may be larger.

    Raises:
      ValueError: a Parquet file cannot be read; one line.
    """
    shards = images = 0
    countable = True
    waiting: list[Shard] = []

    def write() -> None:
        with out.writing(_file(shards - 1)) as path, pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
            for one in waiting:  # one row group per shard, so that a process reads only its own
                writer.write_table(pa.Table.from_pylist([one._asdict()], _SCHEMA))
        waiting.clear()

    for shard, count in _shards(found, shard_images):
        waiting.append(shard)
        shards += 1
        images += count or 0
        countable = countable and count is not None
        if len(waiting) == _SHARDS_OF_A_FILE:
            write()
    if waiting:
        write()
    return Planned(shards, images if countable else None)


def read_shard(out: OutputFolder, number: int) -> Shard:
    """Reads shard `number`, from 0, of a plan."""
    row = _opened(out, _file(number)).read_row_group(number % _SHARDS_OF_A_FILE).to_pylist()[0]
    return Shard(**row)


@lru_cache(maxsize=2)
def _opened(out: OutputFolder, name: str) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(out.read(name)))


def _file(number: int) -> str:
    return f"{FOLDER}/{number // _SHARDS_OF_A_FILE:06d}.parquet"


def _shards(found: Iterable[FoundInput], shard_images: int) -> Iterator[tuple[Shard, int | None]]:
    """Yields shards with the number of their images; None for a tar."""
    files: list[FoundInput] = []

    def of_files() -> tuple[Shard, int]:
        shard = Shard("image", [one.name for one in files], [one.address for one in files], [])
        files.clear()
        return shard, len(shard.names)

    for one in found:
        if one.kind == "image":
            files.append(one)
            if len(files) == shard_images:
                yield of_files()
        elif one.kind == "tar":
            yield Shard("tar", [one.name], [one.address], []), None
        else:
            for groups, rows in _row_groups(one.address, shard_images):
                yield Shard("parquet", [one.name], [one.address], groups), rows
    if files:
        yield of_files()


def _row_groups(address: str, most: int) -> Iterator[tuple[list[int], int]]:
    """Yields groups of consecutive row groups with at most `most` rows in total, or a single larger one."""
    groups: list[int] = []
    total = 0
    for number, rows in enumerate(_rows_of_groups(address)):
        if groups and total + rows > most:
            yield groups, total
            groups, total = [], 0
        groups, total = [*groups, number], total + rows
    if total:
        yield groups, total


def _rows_of_groups(address: str) -> list[int]:
    fs, path = locate(address)
    try:
        with fs.open(path, "rb") as file:
            metadata: Any = pq.ParquetFile(file).metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInput(f"{address}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
