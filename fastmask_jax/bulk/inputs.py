"""Finds the input files at the user's addresses: images, Parquet and tar files, in folders and lists."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from fastmask_jax.bulk.storage import absolute, locate
from fastmask_jax.data.image_file import SUFFIXES
from fastmask_jax.errors import InvalidInput, MissingFile

LIST = "@"  # prefix of the address of a list
_PARQUET = (".parquet", ".pq")
_TAR = (".tar", ".tar.gz", ".tgz")

Kind = Literal["image", "parquet", "tar"]


class FoundInput(NamedTuple):
    """A file to read images from.

    Attributes:
      kind: an image file, a Parquet file with one image per row, or a WebDataset tar.
      name: its path below the input folder; its address, if there are several inputs or a list.
      address: address for fsspec, the same in every process.
    """

    kind: Kind
    name: str
    address: str


def find_inputs(words: Sequence[str], passed_over: Counter[str]) -> Iterator[FoundInput]:
    """Yields the files of the inputs: of a folder, those below it, by path; of @LIST, one per line, in that order.

    Memory holds a whole list, but only one subfolder of a folder at a time. The suffix of a file decides its kind;
    a file that is given by name or in a list counts as an image if its suffix is unknown.

    Args:
      words: addresses of files and folders, and @LISTs.
      passed_over: receives the number of skipped files in folders, by suffix.

    Raises:
      FileNotFoundError: a missing input; files in a list are checked when they are read.
      ValueError: a duplicate file, or an address that cannot be read; one line.
    """
    several = len(words) > 1
    seen: set[str] = set()
    for word in words:
        found = _of_list(word) if word.startswith(LIST) else _of_address(word, several, passed_over)
        for one in found:
            if several or word.startswith(LIST):  # a single folder has no duplicates
                if one.address in seen:
                    raise InvalidInput(f"{word}: {one.address} is there twice; give every file once")
                seen.add(one.address)
            yield one


def kind_by_suffix(name: str) -> Kind | None:
    """Returns the kind of a file by its suffix; None for files without images."""
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
    except Exception as error:  # each file system raises its own errors
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
    """Yields the paths below a folder in a fixed order, except hidden ones; memory: one subfolder."""
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
    """Returns the class of an error and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
