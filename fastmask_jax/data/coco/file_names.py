"""Resolves the file names of annotation files in an image folder."""

import os
import urllib.parse
from pathlib import Path, PurePosixPath

_SAME = (".jpg", ".jpeg", ".jpe", ".jfif"), (".tif", ".tiff")  # suffixes of one format


def image_path(folder: Path, name: str) -> Path:
    """Returns the file that a name in an annotation file refers to.

    That is `folder`/`name`, or if there is no such file: the name with slashes for backslashes, with the characters
    that %20 and the like stand for, or with another suffix of the same format, in lower or upper case. An absolute name
    stands for itself. If none of these is a file, `folder`/`name`.
    """
    given = folder / name
    plain = name.replace("\\", "/")
    names = dict.fromkeys([name, plain, urllib.parse.unquote(plain).replace("\\", "/")])
    tries = [folder / one for one in names if one == name or not (leads_out(folder, one) or "\0" in one)]
    for path in list(tries):
        same = next((suffixes for suffixes in _SAME if path.suffix.lower() in suffixes), (path.suffix.lower(),))
        tries += [path.with_suffix(change(suffix)) for suffix in same if suffix for change in (str.lower, str.upper)]
    return next((path for path in tries if _is_file(path)), given)


def leads_out(folder: Path | None, name: str) -> bool:
    """Returns whether a name leads outside the image folder; an absolute name of a file in the folder does not.

    Without a folder, no absolute name does.
    """
    if os.path.isabs(name):
        return folder is not None and not Path(os.path.normpath(name)).is_relative_to(os.path.abspath(folder))
    return PurePosixPath(os.path.normpath(name.replace("\\", "/")).replace(os.sep, "/")).parts[:1] == (os.pardir,)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False
