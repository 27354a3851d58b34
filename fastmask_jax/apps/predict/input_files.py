"""What the words of a command line stand for: images and videos, in folders, of patterns, on lists."""

import codecs
import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmask_jax.errors import InvalidInput, MissingFile

IMAGES = {".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"}
LIST = "@"  # before the name of a file that lists others
_NUMBER = re.compile(r"(\d+)$")


class FoundFile(NamedTuple):
    """A file to propose on.

    Attributes:
      path: where it is.
      name: what is written about it begins so: its path below the folder that it was found in, without its suffix;
        of all files found together none have the same.
    """

    path: Path
    name: str


class Found(NamedTuple):
    """Files, none twice, in the order in which they were given; those of a folder in that of their paths."""

    images: list[FoundFile]
    videos: list[FoundFile]
    passed_over: Counter[str]  # suffixes of files that folders hold and that are neither


def find_files(words: Sequence[str]) -> Found:
    """The files that words stand for, by their suffixes; a file that is named counts as an image by any suffix.

    A word is a file; a folder, for all images and videos below it but hidden ones; a pattern with *, ? or [], where **
    goes through folders; or @LIST, a file with such words, one a line, of which those that are missing are no error:
    whoever reads them will notice.

    Errors:
      FileNotFoundError: words of no file, or a folder without images and videos; one line.
      ValueError: no words.
    """
    if not words:
        raise InvalidInput("no image: name files, folders, patterns or @LISTs")
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
    videos = [file for file in files if file.path.suffix.lower() in VIDEOS]
    images = [file for file in files if file.path.suffix.lower() not in VIDEOS]
    return Found(images, videos, passed_over)


def image_ids(paths: Sequence[Path]) -> list[int]:
    """The number that each file's name ends with (COCO_val2014_000000000042.jpg → 42).

    Where a name has none, or two have the same, all are numbered in their order instead, from 1.
    """
    numbers = [_NUMBER.search(path.stem) for path in paths]
    found = [int(match[1]) for match in numbers if match]
    usable = len(found) == len(set(found)) == len(paths) and max(found, default=0) <= np.iinfo(np.int64).max
    return found if usable else list(range(1, len(paths) + 1))


def _of_words(
    words: Iterable[str], missing: list[str] | None, passed_over: Counter[str]
) -> Iterator[tuple[Path, Path]]:
    """(path, path below the folder it was found in) of each file. Words of no file go to `missing`; None: to files."""
    for word in words:
        path = Path(word)
        if path.is_dir():
            yield from _of_matches([path], passed_over)
        elif path.is_file():
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
    """Images and videos among what is found without being named: files, and what is below folders."""
    for match in matches:
        folder = match if match.is_dir() else match.parent
        below = sorted(path.relative_to(folder) for path in match.rglob("*")) if match.is_dir() else [Path(match.name)]
        for part in below:
            path = folder / part
            gone = path.is_symlink() and not path.exists()  # whoever reads it will say so
            if any(name.startswith(".") for name in part.parts) or not (path.is_file() or gone):
                continue
            if path.suffix.lower() in IMAGES | VIDEOS:
                yield path, part
            else:
                passed_over[path.suffix or "without a suffix"] += 1


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Windows' shells write files
        return [line.strip() for line in data.decode("utf-16" if wide else "utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise MissingFile(f"{LIST}{path}: no such list of files") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{LIST}{path}: not a text: a list has a file's name on each line") from None


def _distinct(names: Sequence[str]) -> list[str]:
    """The names; where one comes up again (in any case of letters: some disks make no difference) with _2, _3, …"""
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
