"""Tells a damaged checkpoint from a machine that cannot read it just now, and from one of another orbax.

Only a damaged checkpoint is called so: whoever reads that may delete it.
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

# tensorstore raises ValueError with the name of a status in front: these are what a broken file gives
_DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
_DENIED = "PERMISSION_DENIED"
_UNREADABLE = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # of a reader that meets the unexpected


class DamagedCheckpoint(InvalidInput):
    """Files of a checkpoint are missing, cut off or changed."""


@contextmanager
def naming_damage(folder: Path, written_by: str | None) -> Iterator[None]:
    """Errors inside it, of reading a checkpoint, come out as what they are.

    Args:
      folder: of the checkpoint.
      written_by: version of orbax that wrote it; None: unknown.

    Errors:
      DamagedCheckpoint: a file of the checkpoint is missing or broken; one line.
      InvalidInput: orbax cannot read it, and it is not known whether the same version wrote it; one line.
      PermissionError: a file may not be read.
      Anything else (MemoryError, another OSError, ImportError) says nothing about the checkpoint, and is passed on.
    """
    try:
        yield
    except Exception as error:
        wrapped = type(error) is Exception and isinstance(error.__cause__, Exception)  # orbax's, around some errors
        cause = error.__cause__ if wrapped else error
        raise _as_what_it_is(cause, folder, written_by) from cause.__cause__


def _as_what_it_is(error: Exception, folder: Path, written_by: str | None) -> Exception:
    """The error to raise for one that reading a checkpoint gave: often that itself."""
    status = str(error).partition(":")[0] if isinstance(error, ValueError) else ""
    if isinstance(error, FileNotFoundError | json.JSONDecodeError | UnicodeDecodeError) or status in _DAMAGED:
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
    """The error that says so."""
    return DamagedCheckpoint(f"{folder}: not a whole checkpoint ({reason})")


def checksums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """CRC-32 of each array's bytes, by name."""
    return {name: zlib.crc32(np.ascontiguousarray(array)) for name, array in arrays.items()}


def check_values(folder: Path, arrays: Mapping[str, Any], saved: Mapping[str, int]) -> None:
    """DamagedCheckpoint where an array is not the one that was saved; `saved` are their checksums, as far as known."""
    for name, found in checksums({name: array for name, array in arrays.items() if name in saved}).items():
        if found != saved[name]:
            raise damaged(folder, f"the values of {name} have changed since it was saved")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
