"""Filters lines that C libraries print directly to stderr."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_one_at_a_time = threading.Lock()


@contextmanager
def without_lines(beginnings: tuple[bytes, ...]) -> Iterator[None]:
    """Drops lines with these beginnings from stderr during the block; the others, of all threads, appear after it."""
    with _one_at_a_time, tempfile.TemporaryFile() as lines:
        try:
            stderr = os.dup(_STDERR)
        except OSError:  # a process without stderr
            yield
            return
        os.dup2(lines.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            lines.seek(0)
            os.write(_STDERR, b"".join(line for line in lines if not line.startswith(beginnings)))
