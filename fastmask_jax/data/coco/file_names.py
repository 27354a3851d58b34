"""Resolves the file names of annotation files in an image folder."""

import os
from pathlib import Path, PurePosixPath


def image_path(folder: Path, name: str) -> Path:
    """Returns the file that a name in an annotation file refers to.

    This is `folder`/`name`, or else the name with slashes for backslashes, or with its suffix in the other letter case,
    if one of these exists; otherwise `folder`/`name`. An absolute name is used as it is.
    """
    given = folder / name
    tries = [given]
    if "\\" in name:
        tries.append(folder / name.replace("\\", "/"))
    for path in list(tries):
        tries += [path.with_suffix(change(path.suffix)) for change in (str.lower, str.upper) if path.suffix]
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
