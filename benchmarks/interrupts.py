"""Sends signals to train.py at random moments of a short run, from its start to its end, and shows how it ends.

PYTHONPATH=. python benchmarks/interrupts.py --out runs/interrupts --count 40

Right are no output on stderr but the line "interrupted", and an exit code that says finished, stopped, or ended by the
signal. Every second time the signal is sent twice in quick succession.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests import tiny

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Interrupts runs and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--count", type=int, default=40, help="interrupted runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for number in SIGNALS:  # nohup and shells let commands in the background ignore some, which processes inherit
        signal.signal(number, signal.SIG_DFL)
    out, rng = options.out.absolute(), random.Random(options.seed)
    out.mkdir(parents=True, exist_ok=True)
    data = tiny.dataset(out)
    words = [sys.executable, "train.py", "--config", tiny.CONFIG, "--workdir", str(out / "run")]
    words += tiny.overrides(data, train__images=24, train__checkpoint_every=3, train__evaluate_every=6, data__workers=1)

    def run(number: signal.Signals | None, delay: float, times: int) -> tuple[int, str, float]:
        shutil.rmtree(out / "run", ignore_errors=True)
        begin = time.monotonic()
        process = subprocess.Popen(
            words,
            env=tiny.environment(out / "compiled"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if number:
            time.sleep(delay)
            for _ in range(times):
                process.send_signal(number)
                time.sleep(0.05)
        err = process.communicate(timeout=300)[1]
        return process.returncode, err, time.monotonic() - begin

    run(None, 0.0, 0)  # compiles
    code, err, seconds = run(None, 0.0, 0)
    assert (code, err) == (0, ""), (code, err)
    print(f"a run without a signal: {seconds:.1f} s")
    counts: Counter[str] = Counter()
    for trial in range(options.count):
        number, delay = SIGNALS[trial % 3], rng.uniform(0, seconds)
        code, err, _ = run(number, delay, 1 + trial % 2)
        right = code in (0, 128 + number, -number) and err in ("", "interrupted\n")
        counts[f"{number.name} {'right' if right else 'wrong'}"] += 1
        print(f"{number.name} x{1 + trial % 2} after {delay:.2f} s: exit code {code} {err[-2000:]!r}", flush=True)
    print(dict(sorted(counts.items())))


if __name__ == "__main__":
    main()
