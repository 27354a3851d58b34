"""Work in threads beside the network, in order and with bounded memory; and what Ctrl-C may not cut in two."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = 4  # decoding and encoding images let go of the interpreter


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int = THREADS) -> Iterator[R]:
    """`map`, in threads that work ahead: at most twice as many results wait as there are threads."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def undivided() -> Iterator[None]:
    """Ctrl-C inside the block takes effect behind it: what the block writes is whole."""
    if threading.current_thread() is not threading.main_thread():  # where it never arrives
        yield
        return
    caught: list[tuple] = []
    before = signal.signal(signal.SIGINT, lambda *came: caught.append(came))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught and callable(before):
            before(*caught[0])
