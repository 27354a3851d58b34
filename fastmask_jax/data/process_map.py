"""Maps a function over many items in worker processes, in order and with bounded memory."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from tqdm import tqdm

from fastmask_jax.data.resource_tracker import start_in_own_session
from fastmask_jax.errors import WorkerDied

_CHUNK = 16  # items a worker takes at a time
_AHEAD = 4  # chunks under way for each worker


def map_in_order(function: Callable[[Any], Any], items: Sequence[Any], workers: int, title: str) -> Iterator[Any]:
    """Yields function(item) for every item in order, under a progress bar named `title`.

    Args:
      function: a function at module level (or a partial of one), so that it can be pickled.
      items: a sequence that supports slices, such as a list or a range.
      workers: worker processes, at most; 0: none.

    Raises:
      WorkerDied: a worker was killed. Exceptions of `function` are raised here.
    """
    chunks = (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
    call = partial(_call, function)
    workers = min(workers, -(-len(items) // _CHUNK))
    with tqdm(total=len(items), desc=title, unit="image") as bar:
        for results in _in_workers(call, chunks, workers) if workers else map(call, chunks):
            for result in results:
                bar.update()
                yield result


def _call(function: Callable[[Any], Any], chunk: Sequence[Any]) -> list[Any]:
    return [function(item) for item in chunk]


def _in_workers(call: Callable[[Any], Any], chunks: Iterator[Any], workers: int) -> Iterator[list[Any]]:
    # Not forked: array_record and OpenCV keep threads, whose locks a fork may leave locked.
    start_in_own_session()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_interrupts_to_parent)
    try:
        waiting = deque()
        for chunk in chunks:
            waiting.append(pool.submit(call, chunk))
            if len(waiting) > workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerDied(
            "a worker process was killed, possibly out of memory; try fewer --workers; in a script of your own, start "
            "below `if __name__ == '__main__':`"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
