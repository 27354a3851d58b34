"""Prevents two runs from writing to the same working directory."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fastmask_jax import cluster
from fastmask_jax.errors import InvalidInput

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_log = logging.getLogger(__name__)


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a working directory, `<workdir>/lock`, which the system releases when the process ends.

    In a cluster, process 0 holds the lock for all.

    Raises:
      InvalidInput: another run holds the lock; raised in every process of a cluster.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    lock, free = FileLock(workdir / "lock"), True
    if cluster.process() == 0:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            free = False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            _log.warning("%s: this file system has no locks, so a second run there would not be noticed", workdir)
    if not cluster.gather(free)[0]:
        raise InvalidInput(f"{workdir}: another run is training there: stop it first, or give another --workdir")
    try:
        yield
    finally:
        lock.release()
