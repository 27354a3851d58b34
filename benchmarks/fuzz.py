"""Feeds the package thousands of damaged and hostile inputs, and counts how each ends.

    PYTHONPATH=. python benchmarks/fuzz.py images json weights configs command_lines --cases 3000

A case is made from its kind and a number alone, so that it can be repeated: --first 1234 --cases 1. It ends

    fine       the input is used, or its problems are counted
    one line   an error of the user, in one line
    traceback  another exception, or a line that a C library prints: a bug
    crash      the process died
    hang       it took longer than --seconds

and the first cases of each of the last three are shown. The exit status is 1 if there are any.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.fuzzing.cases import KINDS, Ending, ending_of

SHOWN = 5  # of each bad ending


def _work(kind: str, pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case = KINDS[kind](Path(folder))
        pipe.send(None)  # ready: imports and preparations are no case
        while (number := pipe.recv()) is not None:
            pipe.send(ending_of(case, number))


class Worker:
    """A process that runs cases of one kind; it is replaced when one kills it or takes too long."""

    def __init__(self, kind: str, seconds: float) -> None:
        self._kind, self._seconds = kind, seconds
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(self._kind, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def stop(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join()

    def ending(self, number: int) -> Ending:
        """Runs a case."""
        self._pipe.send(number)
        try:
            if self._pipe.poll(self._seconds):
                return self._pipe.recv()
            self._process.kill()
            died = Ending("hang", f"more than {self._seconds:g} s")
        except EOFError:
            self._process.join()
            died = Ending("crash", f"exit status {self._process.exitcode}")
        self._start()
        return died


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="+", choices=list(KINDS))
    parser.add_argument("--cases", type=int, default=1000, help="of each kind (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default: 0)")
    parser.add_argument("--seconds", type=float, default=60, help="that a case may take (default: 60)")
    words = parser.parse_args()
    bad = 0
    print("| kind | cases | fine | one line | traceback | crash | hang |\n|---|---:|---:|---:|---:|---:|---:|")
    for kind in words.kinds:
        worker, counts, begin = Worker(kind, words.seconds), Counter(), time.monotonic()
        examples: dict[str, list[int]] = {}
        for number in range(words.first, words.first + words.cases):
            ending = worker.ending(number)
            counts[ending.how] += 1
            if ending.how not in ("fine", "one line"):
                examples.setdefault(f"{ending.how}: {ending.why}", []).append(number)
        worker.stop()
        columns = [counts[how] for how in ("fine", "one line", "traceback", "crash", "hang")]
        print(f"| {kind} | {words.cases} | {' | '.join(map(str, columns))} |", flush=True)
        for text, numbers in sorted(examples.items(), key=lambda pair: -len(pair[1])):
            print(f"  {kind} {numbers[:SHOWN]} ({len(numbers)}) {text}", file=sys.stderr)
        print(f"  {kind}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        bad += sum(columns[2:])
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
