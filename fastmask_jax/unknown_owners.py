"""Lets etils, with which tfds and orbax read files, stat files whose owner has no name, as in many containers."""

import os
import stat
from typing import Any

from etils.epath import backend, stat_utils


def allow_unknown_owners() -> None:
    """Makes etils give the numbers of users and groups that have no names, instead of raising KeyError."""
    local = type(backend.os_backend)
    original = local.stat
    if getattr(original, "allows_unknown_owners", False):
        return

    def numbered(self: Any, path: Any) -> stat_utils.StatResult:
        try:
            return original(self, path)
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

    numbered.allows_unknown_owners = True
    local.stat = numbered
