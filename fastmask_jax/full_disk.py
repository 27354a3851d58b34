"""Turns what a full disk raises into one line that names the file, what is safe, and the remedy."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastmask_jax.errors import UserError

AGAIN = "what was complete before is unchanged: free some space and run the same command again"
NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a limit of the file's size
_WORDS = {os.strerror(number): number for number in NUMBERS}
_WORDS["Not enough disk space"] = errno.ENOSPC  # tfds, before it writes; without a number


class DiskFull(UserError, OSError):
    """No space is left for an output."""


@contextmanager
def naming_full_disk(output: str | os.PathLike, safe: str | Callable[[], str]) -> Iterator[None]:
    """Raises DiskFull, one line, if there is no space left for what the block writes.

    Args:
      output: file or folder that the block writes; an error that names a file says that one.
      safe: what is safe and how to go on, or a function that returns it.

    Raises:
      DiskFull: `<file>: the disk is full (<reason>); <safe>`.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        cause = _cause(error)
        if cause is None:
            raise
        number, named = cause
        said = safe if isinstance(safe, str) else safe()
        raise DiskFull(f"{named or Path(output)}: the disk is full ({os.strerror(number)}); {said}") from error


def _cause(error: BaseException | None) -> tuple[int, str | None] | None:
    """Returns (errno, file or None) of an error, or of one that it was raised from, which says that a disk is full.

    C++ libraries (array_record, tensorstore, safetensors) raise other types, with the system's words in the message;
    tfds has words of its own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in NUMBERS:
            return error.errno, error.filename2 or error.filename  # of a copy, the second is the one that is written
        if isinstance(error, OSError | ValueError | RuntimeError) and not isinstance(error, UserError):
            for words, number in _WORDS.items():
                if words in str(error):
                    return number, None
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None
