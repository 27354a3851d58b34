"""Corrects how etils, the file library of tfds and orbax, handles local files.

etils has two faults: a file whose owner has no name, as in many containers, raises KeyError; and a folder named
`run[1]` is treated as a pattern, so that orbax does not find the files that it wrote there.
"""

import glob
import os
import stat
from typing import Any

from etils.epath import backend, stat_utils


def correct_local_files() -> None:
    """Makes etils return numbers for owners without names, and treat the folder of a pattern literally if it exists."""
    local = type(backend.os_backend)
    if getattr(local, "corrected", False):
        return
    named = local.stat

    def numbered(self: Any, path: Any) -> stat_utils.StatResult:
        try:
            return named(self, path)
        except KeyError:
            found = os.stat(path)
            return stat_utils.StatResult(
                is_directory=stat.S_ISDIR(found.st_mode),
                length=found.st_size,
                mtime=int(found.st_mtime),
                owner=str(found.st_uid),
                group=str(found.st_gid),
                mode=found.st_mode,
            )

    def literal(self: Any, path: Any) -> list[str]:
        folder, name = os.path.split(os.fspath(path))
        return glob.glob(os.path.join(glob.escape(folder) if os.path.isdir(folder) else folder, name))

    local.stat, local.glob, local.corrected = numbered, literal, True
