"""What the C library does with memory that was freed: a setting of the whole process, for the commands."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes glibc hand out freed memory again rather than return it to the system; False where there is no glibc.

    On the CPU, XLA allocates the buffers of every step anew. By default large ones are mapped and unmapped each time,
    and the kernel zeroes each of their pages again: a third of a training step (docs/results.md). One arena, because
    only the main one can grow beyond 64 MiB. To be called before other threads start to allocate.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST))
    return all([mallopt(parameter, value) for parameter, value in settings])
