"""Expands command-line inputs into images and videos: files, folders, patterns and lists."""

import codecs
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmask_jax.apps.predict.file_kind import kind_of
from fastmask_jax.errors import InvalidInput, MissingFile

LIST = "@"  # before the name of a file that lists others
_NUMBER = re.compile(r"(\d+)$")


class FoundFile(NamedTuple):
    """An image or video to propose on.

    Attributes:
      path: path of the file.
      name: prefix of its outputs: the path below the folder it was found in, without suffix; unique among all files
        found together.
    """

    path: Path
    name: str


class Found(NamedTuple):
    """Distinct files in the order of the inputs; those of a folder sorted by path."""

    images: list[FoundFile]
    videos: list[FoundFile]
    passed_over: Counter[str]  # suffixes of other files in the folders


def find_files(words: Sequence[str]) -> Found:
    """Expands inputs into images and videos (see `file_kind`); a file given by name that is neither counts as an image.

    An input is a file; a folder, for all images and videos below it except hidden ones; a pattern with *, ? or [],
    where ** matches subfolders; or @LIST, a file with one input per line. Missing files of a list are not an error
    here: they are reported when they are read.

    Raises:
      FileNotFoundError: a missing file, or a folder without images and videos; one line.
      ValueError: no inputs.
    """
    if not words:
        raise InvalidInput("no inputs: give files, folders, patterns or @LISTs")
    missing: list[str] = []
    passed_over: Counter[str] = Counter()
    found: dict[Path, Path] = {}
    for path, below in _of_words(words, missing, passed_over):
        found.setdefault(path, below)
    if missing:
        what = "no file of that pattern" if glob.has_magic(missing[0]) else "no such image or folder"
        raise MissingFile(f"{missing[0]}: {what} ({len(missing)} of {len(words)} are missing)")
    names = _distinct([str(below.with_suffix("")) for below in found.values()])
    files = [FoundFile(path, name) for path, name in zip(found, names, strict=True)]
    if not files:
        others = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(5))
        raise MissingFile(f"{', '.join(words)}: no images or videos there" + (f", but {others}" if others else ""))
    videos = [file for file in files if kind_of(file.path) == "video"]
    images = [file for file in files if kind_of(file.path) != "video"]
    return Found(images, videos, passed_over)


def image_ids(paths: Sequence[Path]) -> list[int]:
    """Returns the number at the end of each file name (COCO_val2014_000000000042.jpg → 42).

    If a name has none, or two names have the same, all files are numbered from 1 instead.
    """
    numbers = [_NUMBER.search(path.stem) for path in paths]
    found = [int(match[1]) for match in numbers if match]
    usable = len(found) == len(set(found)) == len(paths) and max(found, default=0) <= np.iinfo(np.int64).max
    return found if usable else list(range(1, len(paths) + 1))


def _of_words(
    words: Iterable[str], missing: list[str] | None, passed_over: Counter[str]
) -> Iterator[tuple[Path, Path]]:
    """Yields (path, path below its input folder) of each file. Missing files go to `missing`; if None, to the files."""
    for word in words:
        path = Path(word)
        if os.path.isdir(path):  # unlike Path.is_dir before Python 3.14, False for a name that is too long
            yield from _of_matches([path], passed_over)
        elif os.path.isfile(path):
            yield path, Path(path.name)
        elif word.startswith(LIST):
            yield from _of_words(_lines(Path(word.removeprefix(LIST))), None, passed_over)
        elif glob.has_magic(word) and (matches := sorted(glob.glob(word, recursive=True))):
            yield from _of_matches([Path(match) for match in matches], passed_over)
        elif missing is None:
            yield path, Path(path.name)
        else:
            missing.append(word)


def _of_matches(matches: Sequence[Path], passed_over: Counter[str]) -> Iterator[tuple[Path, Path]]:
    """Yields images and videos among files that were found, not given by name, including those below folders."""
    for match in matches:
        folder = match if match.is_dir() else match.parent
        below = sorted(path.relative_to(folder) for path in match.rglob("*")) if match.is_dir() else [Path(match.name)]
        for part in below:
            path = folder / part
            gone = path.is_symlink() and not path.exists()  # reported when it is read
            if any(name.startswith(".") for name in part.parts) or not (path.is_file() or gone):
                continue
            if kind_of(path):
                yield path, part
            else:
                passed_over[path.suffix or "without a suffix"] += 1


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # the encoding of Windows shells
        return [line.strip() for line in data.decode("utf-16" if wide else "utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise MissingFile(f"{LIST}{path}: no such list of files") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{LIST}{path}: not a text file: a list has one input per line") from None


def _distinct(names: Sequence[str]) -> list[str]:
    """Makes names unique with _2, _3, …; letter case is ignored, because some file systems ignore it."""
    taken: set[str] = set()
    distinct = []
    for name in names:
        fresh, again = name, 1
        while fresh.lower() in taken:
            again += 1
            fresh = f"{name}_{again}"
        taken.add(fresh.lower())
        distinct.append(fresh)
    return distinct
