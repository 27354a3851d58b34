"""Checks runs on several hosts, simulated by processes with two CPU devices each: signals, lost processes, resharding.

PYTHONPATH=. python benchmarks/hosts.py --out runs/hosts
"""

import argparse
import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fastmask_jax.weights.checkpoints import saved_steps
from tests import tiny
from tests.hosts import Hosts, train

LONG = 40_000  # images: more than a run reaches before it is stopped


def losses(workdir: Path) -> dict[int, float]:
    """Returns the losses by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def scenario(name: str, text: str) -> None:
    """Prints a row of the table."""
    print(f"| {name} | {text} |", flush=True)


def stopped(data: Path, out: Path, delays: dict[int, float], number: signal.Signals) -> None:
    """Sends a signal to some processes, each after its delay in seconds."""
    workdir = out / "stopped"
    shutil.rmtree(workdir, ignore_errors=True)
    with Hosts(2, 2, train(data, workdir, train__images=LONG), out / "compiled") as hosts:
        hosts.wait_for("^step +5/")
        begin = time.monotonic()
        for process, delay in sorted(delays.items(), key=lambda pair: pair[1]):
            time.sleep(max(0.0, begin + delay - time.monotonic()))
            hosts.processes[process].send_signal(number)
        codes = hosts.codes()
        seconds = time.monotonic() - begin
        said = hosts.said("stopped by")
    whom = ", ".join(f"process {process} at {delay:g} s" for process, delay in delays.items())
    scenario(
        f"{number.name} to {whom}", f"exit codes {codes} after {seconds:.1f} s; {saved_steps(workdir)} saved: {said}"
    )


def killed(data: Path, out: Path, process: int) -> None:
    """Kills a process: the other one must end, and a restart must resume."""
    workdir = out / f"killed_{process}"
    shutil.rmtree(workdir, ignore_errors=True)
    words = train(data, workdir, train__images=LONG, train__checkpoint_every=4)
    with Hosts(2, 2, words, out / "compiled") as hosts:
        hosts.wait_for("^step +9/")
        hosts.processes[process].kill()
        begin = time.monotonic()
        codes = hosts.codes()
        seconds = time.monotonic() - begin
        said = hosts.said("^error: ", 1 - process)
    with Hosts(2, 2, words, out / "compiled") as hosts:
        again = hosts.wait_for("^resuming")
    scenario(f"SIGKILL of process {process}", f"exit codes {codes} after {seconds:.1f} s: {said}; then {again}")


def frozen(data: Path, out: Path, process: int) -> None:
    """Stops a process for good (SIGSTOP), as a host that is lost without closing its connections; then wakes it."""
    workdir = out / f"frozen_{process}"
    shutil.rmtree(workdir, ignore_errors=True)
    with Hosts(2, 2, train(data, workdir, train__images=LONG), out / "compiled") as hosts:
        hosts.wait_for("^step +5/")
        lost, other = hosts.processes[process], hosts.processes[1 - process]
        lost.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        code = other.wait(timeout=240)
        seconds = time.monotonic() - begin
        lost.send_signal(signal.SIGCONT)
        awake = lost.wait(timeout=240)
        hosts.codes()
        said = hosts.said("^error: ", 1 - process)
    scenario(f"SIGSTOP of process {process}", f"the other exits with {code} after {seconds:.1f} s: {said}; it: {awake}")


def evaluated(data: Path, out: Path) -> None:
    """Evaluates the same weights in one process and in two."""
    found = {}
    for count in (1, 2):
        workdir = out / f"evaluated_{count}"
        shutil.rmtree(workdir, ignore_errors=True)
        words = ["evaluate.py", "--config", tiny.CONFIG, "--workdir", str(workdir), "--weights", str(out / "straight")]
        with Hosts(count, 1, [*words, *tiny.overrides(data)], out / "compiled") as hosts:
            codes = hosts.codes()
        metrics = json.loads((workdir / "metrics.json").read_text()) | {"seconds_per_image": 0}
        found[count] = codes, (workdir / "proposals.json").read_bytes(), metrics
    (one, *ours), (two, *theirs) = found[1], found[2]
    scenario("evaluate.py, one and two processes", f"exit codes {one}, {two}; equal files: {ours == theirs}")


def shapes(data: Path, out: Path) -> None:
    """Runs 2 processes × 2 devices, 1 × 4, 1 × 1 and 2 × 2 in turn; each takes four steps of the same run."""
    want = out / "straight"
    for workdir in (want, out / "changing"):
        shutil.rmtree(workdir, ignore_errors=True)
    with Hosts(1, 4, train(data, want, train__images=64), out / "compiled") as hosts:
        hosts.codes()
    for part, (count, devices) in enumerate([(2, 2), (1, 4), (1, 1), (2, 2)]):
        with Hosts(count, devices, train(data, out / "changing", train__images=64), out / "compiled") as hosts:
            if part < 3:
                hosts.wait_for(f"^step +{4 * part + 3}/")
                hosts.processes[0].send_signal(signal.SIGTERM)
            codes = hosts.codes()
            scenario(f"{count} × {devices} devices", f"exit codes {codes}; {hosts.said('^resuming') or 'new'}")
    a, b = losses(want), losses(out / "changing")
    assert a.keys() == b.keys(), (a.keys(), b.keys())
    worst = max(abs(a[step] - b[step]) / abs(a[step]) for step in a)
    scenario("losses against 1 × 4 without a stop", f"largest relative difference of {len(a)} steps {worst:.1e}")


def unshared(data: Path, out: Path) -> None:
    """Each process has a workdir of its own."""
    own = [["--workdir", str(out / f"own_{number}")] for number in range(2)]
    with Hosts(2, 2, train(data, out / "none"), out / "compiled", own) as hosts:
        codes = hosts.codes()
        scenario("a workdir that is not shared", f"exit codes {codes}: {hosts.said('^error: ')}")


def same_number(data: Path, out: Path, number: int) -> None:
    """Two processes have the same number."""
    own = [["--process", f"{number}", "--join_seconds", "20"]] * 2
    with Hosts(2, 2, train(data, out / "same"), out / "compiled", own) as hosts:
        begin = time.monotonic()
        codes = hosts.codes()
        said = " / ".join(f"{hosts.said('^error: ', process)}" for process in range(2))
        scenario(f"two processes {number}", f"exit codes {codes} after {time.monotonic() - begin:.1f} s: {said}")


def absent(data: Path, out: Path) -> None:
    """Only one of two processes starts."""
    own = [["--processes", "2", "--coordinator", "127.0.0.1:1", "--process", "1", "--join_seconds", "20"]]
    with Hosts(1, 2, train(data, out / "absent"), out / "compiled", own) as hosts:
        begin = time.monotonic()
        codes = hosts.codes()
        said = hosts.said("^error: ")
        scenario("an absent host", f"exit code {codes[0]} after {time.monotonic() - begin:.1f} s: {said}")


def paused(data: Path, out: Path, seconds: float) -> None:
    """All processes stand still for a while as they compile, as when a virtual machine is moved."""
    workdir = out / "paused"
    shutil.rmtree(workdir, ignore_errors=True)
    with Hosts(2, 2, train(data, workdir, train__images=LONG), out / "compiled") as hosts:
        hosts.wait_for("^compiling the step")
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in hosts.processes:
                process.send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(seconds)
        with contextlib.suppress(AssertionError):
            hosts.wait_for("^step +3/")
        codes = [process.poll() for process in hosts.processes]
        said = hosts.said("^step +3/") or hosts.said("^error: ") or hosts.said("^error: ", 1)
        scenario(f"all stand still for {seconds:g} s", f"exit codes {codes}: {said}")


SCENARIOS: dict[str, Callable[[Path, Path], None]] = {
    "sigterm": lambda data, out: stopped(data, out, {1: 0.0}, signal.SIGTERM),
    "sigterms": lambda data, out: stopped(data, out, {0: 0.0, 1: 1.0}, signal.SIGTERM),
    "sigterms_later": lambda data, out: stopped(data, out, {0: 0.0, 1: 3.0}, signal.SIGTERM),
    "kill1": lambda data, out: killed(data, out, 1),
    "kill0": lambda data, out: killed(data, out, 0),
    "frozen1": lambda data, out: frozen(data, out, 1),
    "frozen0": lambda data, out: frozen(data, out, 0),
    "shapes": shapes,
    "evaluate": evaluated,
    "unshared": unshared,
    "absent": absent,
    "same0": lambda data, out: same_number(data, out, 0),
    "same1": lambda data, out: same_number(data, out, 1),
    "paused": lambda data, out: paused(data, out, 25.0),
}


def main() -> None:
    """Runs scenarios and prints a row of a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--only", choices=SCENARIOS, nargs="+", default=list(SCENARIOS), help="default: all")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    data = tiny.dataset(out)
    for name in options.only:
        SCENARIOS[name](data, out)


if __name__ == "__main__":
    main()
