"""Finds images at the addresses that a user gives: files, Parquet and tar files, in folders and lists."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from fastmask_jax.bulk.storage import absolute, locate
from fastmask_jax.data.image_file import SUFFIXES
from fastmask_jax.errors import InvalidInput, MissingFile

LIST = "@"  # before the address of a file that lists others
_PARQUET = (".parquet", ".pq")
_TAR = (".tar", ".tar.gz", ".tgz")

Kind = Literal["image", "parquet", "tar"]


class FoundInput(NamedTuple):
    """A file to read images from.

    Attributes:
      kind: an image file, a Parquet file with one image per row, or a WebDataset tar.
      name: its path below the input folder; its address, if there are several inputs or a list.
      address: for fsspec; the same in every process.
    """

    kind: Kind
    name: str
    address: str


def find_inputs(words: Sequence[str], passed_over: Counter[str]) -> Iterator[FoundInput]:
    """Yields the files of the inputs: of a folder, those below it, by path; of @LIST, one per line, in that order.

    A list is read whole; of a folder only one subfolder is held in memory at a time. A file's suffix says what it is. A
    file given by name or by a list counts as an image if it has any other suffix.

    Args:
      words: addresses of files and folders, and @LISTs.
      passed_over: counts by suffix what folders hold besides.

    Raises:
      FileNotFoundError: a missing input; a line of a list is looked at when it is read.
      ValueError: the same file twice, or an address that cannot be read; one line.
    """
    several = len(words) > 1
    seen: set[str] = set()
    for word in words:
        found = _of_list(word) if word.startswith(LIST) else _of_address(word, several, passed_over)
        for one in found:
            if several or word.startswith(LIST):  # a folder alone has no file twice
                if one.address in seen:
                    raise InvalidInput(f"{word}: {one.address} is there twice; give every file once")
                seen.add(one.address)
            yield one


def kind_by_suffix(name: str) -> Kind | None:
    """Returns what a file is by the end of its name; None for files that hold no images."""
    lower = name.lower()
    if lower.endswith(_TAR):
        return "tar"
    if lower.endswith(_PARQUET):
        return "parquet"
    return "image" if PurePosixPath(lower).suffix in SUFFIXES else None


def _of_address(word: str, several: bool, passed_over: Counter[str]) -> Iterator[FoundInput]:
    fs, path = locate(word)
    address = absolute(word)
    try:
        what = fs.info(path)["type"]
    except FileNotFoundError:
        raise MissingFile(f"{word}: no such file or folder") from None
    except Exception as error:  # every file system has its own
        raise InvalidInput(f"{word}: cannot be read ({line_of(error)})") from None
    if what != "directory":
        yield FoundInput(kind_by_suffix(path) or "image", address if several else path.rpartition("/")[2], address)
        return
    root = path.rstrip("/")
    for below in _files_below(fs, root):
        kind = kind_by_suffix(below)
        if kind is None:
            passed_over[PurePosixPath(below).suffix or "without a suffix"] += 1
        else:
            full = f"{address.rstrip('/')}/{below}"
            yield FoundInput(kind, full if several else below, full)


def _files_below(fs: Any, root: str) -> Iterator[str]:
    """Yields paths below a folder in a fixed order, without hidden ones; memory grows with the largest folder only."""
    folders = [""]
    while folders:
        folder = folders.pop()
        entries = sorted((entry["name"].rstrip("/"), entry["type"]) for entry in fs.ls(f"{root}/{folder}", detail=True))
        inner = []
        for path, kind in entries:
            name = path.rpartition("/")[2]
            if name.startswith(".") or not name or path == f"{root}/{folder}".rstrip("/"):
                continue
            if kind == "directory":
                inner.append(f"{folder}{name}/")
            else:
                yield f"{folder}{name}"
        folders += reversed(inner)


def _of_list(word: str) -> Iterator[FoundInput]:
    fs, path = locate(word.removeprefix(LIST))
    try:
        lines = fs.cat_file(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MissingFile(f"{word}: no such list of files") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{word}: not a text file: a list has one address per line") from None
    for line in filter(None, map(str.strip, lines)):
        yield FoundInput(kind_by_suffix(line) or "image", line, absolute(line))


def line_of(error: Exception) -> str:
    """Returns the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
