"""Distinguishes damaged checkpoints from temporary read errors and from those of another orbax version.

Only damaged checkpoints are reported as such, because users may delete them.
"""

import errno
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from fastmask_jax.errors import InvalidInput, UserError

# tensorstore raises ValueErrors that begin with a status: these are the statuses for broken files
_DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
_DENIED = "PERMISSION_DENIED"
BROKEN = (  # a file is missing, has become a folder (or a folder a file), or holds no JSON
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError),
    *(json.JSONDecodeError, UnicodeDecodeError),
)
_UNREADABLE = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # errors of a reader for unexpected content


class DamagedCheckpoint(InvalidInput):
    """Files of a checkpoint are missing, truncated or changed."""


@contextmanager
def naming_damage(folder: Path, written_by: str | None) -> Iterator[None]:
    """Translates errors of reading a checkpoint inside the block.

    Args:
      folder: folder of the checkpoint.
      written_by: version of orbax that wrote it; None: unknown.

    Raises:
      DamagedCheckpoint: a file of the checkpoint is missing, damaged or a folder; one line.
      InvalidInput: orbax cannot read it, and it is not known whether the same version wrote it; one line.
      PermissionError: a file may not be read.
      Other errors (MemoryError, other OSErrors, ImportError) say nothing about the checkpoint and are passed on.
    """
    try:
        yield
    except Exception as error:
        wrapped = type(error) is Exception and isinstance(error.__cause__, Exception)  # orbax's, around some errors
        cause = error.__cause__ if wrapped else error
        raised = _as_what_it_is(cause, folder, written_by)
        raise raised from (cause.__cause__ if raised is cause else cause)


def _as_what_it_is(error: Exception, folder: Path, written_by: str | None) -> Exception:
    """Returns the error to raise for an error in reading a checkpoint, which may be the same error."""
    status = str(error).partition(":")[0] if isinstance(error, ValueError) else ""
    if isinstance(error, BROKEN) or status in _DAMAGED:
        return damaged(folder, _reason(error))
    if status == _DENIED:
        return PermissionError(errno.EACCES, _reason(error), str(folder))
    if isinstance(error, UserError) or not isinstance(error, _UNREADABLE) or status.isupper():
        return error
    if written_by == ocp.__version__:
        return damaged(folder, _reason(error))
    by = f"orbax-checkpoint {written_by}" if written_by else "another version"
    return InvalidInput(
        f"{folder}: orbax-checkpoint {ocp.__version__} cannot read it ({_reason(error)}): it was written by {by}, or "
        "is damaged"
    )


def damaged(folder: Path, reason: str) -> DamagedCheckpoint:
    """Returns the error for a damaged checkpoint."""
    return DamagedCheckpoint(f"{folder}: not a whole checkpoint ({reason})")


def checksums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Returns the CRC-32 of each array's bytes, by name."""
    return {name: zlib.crc32(np.ascontiguousarray(array)) for name, array in arrays.items()}


def check_values(folder: Path, arrays: Mapping[str, Any], saved: Mapping[str, int]) -> None:
    """Raises DamagedCheckpoint if an array differs from the saved one; `saved` are the checksums of all arrays."""
    for name, found in checksums(arrays).items():
        if found != saved.get(name):
            raise damaged(folder, f"the values of {name} have changed since it was saved")


def json_checksum(value: Any) -> int:
    """Returns the CRC-32 of a value that JSON holds; the order of keys does not matter."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
