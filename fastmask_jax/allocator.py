"""Configures how the C library handles freed memory, for the whole process."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes glibc reuse freed memory instead of returning it to the system; returns False without glibc.

    On the CPU, XLA allocates the buffers of every step anew. By default, large buffers are mapped and unmapped each
    time, and the kernel zeroes all their pages, which takes a third of a training step (docs/results.md). Only one
    arena is used, because only the main arena can grow beyond 64 MiB. Call this before other threads allocate memory.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST))
    return all([mallopt(parameter, value) for parameter, value in settings])


def return_freed_memory() -> bool:
    """Returns freed memory to the system, also after `keep_freed_memory`; returns False without glibc."""
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return False
    trim(0)
    return True
