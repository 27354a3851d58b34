"""Resolves the file names of annotation files in an image folder."""

import os
import re
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

_SAME = {suffix: ".jpg" for suffix in (".jpeg", ".jpe", ".jfif")} | {".tiff": ".tif"}  # suffixes of one format
_DRIVE = re.compile(r"[A-Za-z]:/")
_LOCAL = "/data/local-files/?d="  # Label Studio's name of a file below its root for local files


def image_path(folder: Path, name: str) -> Path:
    """Returns the file that a name in an annotation file refers to.

    That is `folder`/`name`. If there is no such file, the name is read as other programs and file systems write it:
    with backslashes; with %20 and the like; surrounded by spaces; in other case or another Unicode form; with another
    suffix of the same format; below the image folder's own name; or as a URL or an absolute name of another machine, of
    which the longest end counts that is a file in the folder. An absolute name of a file stands for itself. If none of
    these is a file, or several files are meant equally, `folder`/`name`.
    """
    given = folder / name
    if os.path.isfile(given):
        return given
    for parts in _readings(folder, name):
        found = _found(folder, parts)
        if found is not None:
            return found
    return given


def leads_out(folder: Path | None, name: str) -> bool:
    """Returns whether a name leads outside the image folder, and is not understood as one inside it.

    A URL or an absolute name that is no file here leads nowhere: the file is missing.

    Without a folder, only a relative name does, by "..".
    """
    if folder is not None:
        path = os.path.abspath(image_path(folder, name))
        if _is_foreign(name.replace("\\", "/")) and not os.path.isfile(path):  # of another machine
            return False
        return not Path(path).is_relative_to(os.path.abspath(folder))
    return os.pardir in PurePosixPath(os.path.normpath(name.replace("\\", "/"))).parts[:1]


def _is_foreign(name: str) -> bool:
    """Returns whether a name with forward slashes is a URL, or absolute on any machine."""
    return os.path.isabs(name) or _DRIVE.match(name) is not None or "://" in name


def _readings(folder: Path, name: str) -> Iterator[Sequence[str]]:
    """Yields the names that a name may stand for, as parts below the folder; none leads out of it."""
    plain = name.strip().replace("\\", "/").removeprefix(_LOCAL)
    for one in dict.fromkeys([plain, urllib.parse.unquote(plain).replace("\\", "/")]):
        try:
            path = urllib.parse.urlsplit(one).path if "://" in one else one
        except ValueError:  # an address that no URL can have, such as one bracket
            continue
        parts = PurePosixPath(os.path.normpath(path)).parts
        if "\0" in one or not parts or os.pardir in parts:
            continue
        if not _is_foreign(one):
            yield parts
            if parts[0] == Path(os.path.abspath(folder)).name:
                yield parts[1:]
        elif not os.path.isfile(name):
            yield from (parts[start:] for start in range(1, len(parts)))


def _found(folder: Path, parts: Sequence[str]) -> Path | None:
    """Returns the one file below a folder with these parts, in any case, Unicode form and suffix of the same format."""
    path = folder
    for part in parts:
        if not os.path.exists(path / part):
            names = _listed(path).get(_key(part), ())
            equal = [one for one in names if _folded(one) == _folded(part)] or names
            if len(equal) != 1:
                return None
            part = equal[0]
        path /= part
    return path if parts and os.path.isfile(path) else None


def _listed(folder: Path) -> Mapping[str, Sequence[str]]:
    try:
        return _names_by_key(folder, folder.stat().st_mtime_ns)
    except OSError:  # not a folder, or not readable
        return {}


@lru_cache(maxsize=1024)
def _names_by_key(folder: Path, _modified: int) -> Mapping[str, Sequence[str]]:
    names = defaultdict(list)
    for name in os.listdir(folder):
        names[_key(name)].append(name)
    return names


def _key(name: str) -> str:
    stem, suffix = os.path.splitext(_folded(name))
    return stem + _SAME.get(suffix, suffix)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
