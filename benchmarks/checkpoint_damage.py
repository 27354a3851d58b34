"""Damages the latest checkpoint of a run in every way, and counts what reading it comes to.

PYTHONPATH=. python benchmarks/checkpoint_damage.py --out runs/damage

Each damage is done to a copy of a run with checkpoints of steps 2, 4 and 6, all evaluated, the last the best. The copy
is then read as train.py does to resume, as evaluate.py does, and as predict.py does, each in a process of its own with
the commands' handling of errors. Right are the very arrays of step 6 or, with a line that names the damaged checkpoint,
of step 4; without a line where the damage leaves no trace. Root may read any file: run it as another user.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from benchmarks.checkpoint_readers import READERS, read
from tests import tiny

LATEST = Path("checkpoints/6")
OUTCOMES = ("fine", "one line", "no trace", "refused in one line", "wrong values", "traceback", "more lines", "no end")
NO_TRACE = ("./ removed", "./ replaced by a file", "metrics/ removed")  # as if the step were not saved or evaluated
WARNINGS = ("not a whole checkpoint", "its metrics are broken")
SECONDS = 180  # for one command
Damage = Callable[[Path], object]


def flipped(share: float) -> Damage:
    """Flips a bit at a share of the file's length."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(len(content) * share), len(content) - 1)] ^= 0x10
        path.write_bytes(content)

    return flip


def replaced_by_folder(path: Path) -> None:
    """Puts an empty folder in the place of a file."""
    path.unlink()
    path.mkdir()


def replaced_by_file(path: Path) -> None:
    """Puts a file in the place of a folder."""
    shutil.rmtree(path)
    path.write_bytes(b"x")


def emptied_folder(path: Path) -> None:
    """Removes what a folder holds."""
    shutil.rmtree(path)
    path.mkdir()


def replaced_by_link(path: Path) -> None:
    """Puts a link to nothing in the place of a file."""
    path.unlink()
    path.symlink_to("nothing")


TO_FILES: dict[str, Damage] = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a bit flipped near its begin": flipped(0.1),
    "a bit flipped in its middle": flipped(0.5),
    "overwritten": lambda path: path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size)),
    "replaced by a folder": replaced_by_folder,
    "replaced by a broken link": replaced_by_link,
    "not readable": lambda path: path.chmod(0),
}
TO_FOLDERS: dict[str, Damage] = {
    "removed": shutil.rmtree,
    "emptied": emptied_folder,
    "replaced by a file": replaced_by_file,
    "not readable": lambda path: path.chmod(0),
}
FOREIGN: dict[str, Damage] = {
    "an empty folder 999": lambda run: (run / "checkpoints/999").mkdir(),
    "a folder 999 with a note": lambda run: _note(run / "checkpoints/999/note.txt"),
    "a folder 999 with an empty state": lambda run: (run / "checkpoints/999/state").mkdir(parents=True),
    "a file 999": lambda run: _note(run / "checkpoints/999"),
    "a folder old": lambda run: _note(run / "checkpoints/old/note.txt"),
    "a folder 0006": lambda run: (run / "checkpoints/0006").mkdir(),
    "a folder -1": lambda run: (run / "checkpoints/-1").mkdir(),
    "a copy named 6 (1)": lambda run: shutil.copytree(run / LATEST, run / "checkpoints/6 (1)"),
    "a copy named 7": lambda run: shutil.copytree(run / LATEST, run / "checkpoints/7"),
    "half a save of step 7": lambda run: _note(run / "checkpoints/7.orbax-checkpoint-tmp/state/note.txt"),
    "config.json removed": lambda run: (run / "config.json").unlink(),
    "config.json cut": lambda run: _note(run / "config.json"),
    "metrics.jsonl overwritten": lambda run: (run / "metrics.jsonl").write_bytes(b"\xff{\n"),
}


def _note(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")


def damages(run: Path) -> Iterator[tuple[str, Damage]]:
    """Yields (name, what it does to a copy of the run). Files of equal roles are represented by the largest."""
    files = {path.relative_to(run / LATEST) for path in (run / LATEST).rglob("*") if path.is_file()}
    largest = {}
    for file in sorted(files, key=lambda file: (run / LATEST / file).stat().st_size):
        role = file.parent / "*" if file.parent.name == "d" else file
        largest[role] = file
    commits = [role for role in largest if role.name == "commit_success.txt" and len(role.parts) > 1]
    for role in commits[1:]:
        del largest[role]
    for role, file in sorted(largest.items()):
        for name, damage in TO_FILES.items():
            yield f"{role} {name}", lambda copy, file=file, damage=damage: damage(copy / LATEST / file)
    for folder in (".", "state", "config", "written", "metrics"):
        for name, damage in TO_FOLDERS.items():
            yield f"{folder}/ {name}", lambda copy, folder=folder, damage=damage: damage(copy / LATEST / folder)
    yield from FOREIGN.items()


class Reading:
    """Reads runs in processes of their own, forked from one that has imported everything."""

    def __init__(self, out: Path, config: ConfigDict) -> None:
        self._out, self._config = out, config
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.checkpoint_readers"])

    def __call__(self, reader: str, run: Path) -> tuple[int | None, str, str]:
        """Returns (exit code or None after `SECONDS`, what was written, checksums of the arrays)."""
        written, digests = self._out / "written.txt", self._out / "digests.json"
        digests.unlink(missing_ok=True)
        process = self._context.Process(target=read, args=(reader, run, self._config, written, digests))
        process.start()
        process.join(SECONDS)
        code = process.exitcode
        process.kill()
        process.join()
        return code, written.read_text(errors="replace"), digests.read_text() if digests.is_file() else ""


def judged(name: str, code: int | None, text: str, got: str, latest: str, earlier: str) -> str:
    """Names the outcome of a command that read `got` after damage `name`; the others are checksums of steps 6 and 4."""
    lines = text.splitlines()
    said = [line for line in lines if line.startswith("error: ") or any(words in line for words in WARNINGS)]
    if code is None:
        return "no end"
    if "Traceback" in text or code not in (0, 2):
        return "traceback"
    if len(said) > 1:
        return "more lines"
    if code == 2:
        return "refused in one line"
    if said and got in (latest, earlier):
        return "one line"
    if got == latest:
        return "fine"
    return "no trace" if got == earlier and name in NO_TRACE else "wrong values"


def main() -> None:
    """Tries all damages and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--only", default="", help="try only damages whose name has this in it")
    parser.add_argument("--count", type=int, help="try so many of them, drawn at random (default: all)")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    data = tiny.dataset(out)
    every = {"train__images": 12, "train__evaluate_every": 2}
    whole, earlier, copy = out / "whole", out / "earlier", out / "copy"
    shutil.rmtree(earlier, ignore_errors=True)
    if not whole.exists():
        words = ["train.py", "--config", tiny.CONFIG, "--workdir", str(whole), *tiny.overrides(data, **every)]
        subprocess.run([sys.executable, *words], check=True, env=tiny.environment(out / "compiled"))
    shutil.copytree(whole, earlier)
    shutil.rmtree(earlier / LATEST)
    os.environ.update(tiny.environment(out / "compiled"))
    reading = Reading(out, tiny.config(data, **every))
    right = {reader: [reading(reader, run)[2] for run in (whole, earlier)] for reader in READERS}
    assert all(one and other and one != other for one, other in right.values()), right

    counts: dict[str, Counter[str]] = {reader: Counter() for reader in READERS}
    tried = [(name, damage) for name, damage in damages(whole) if options.only in name]
    if options.count is not None:
        tried = random.Random(0).sample(tried, min(options.count, len(tried)))
    for number, (name, damage) in enumerate(tried):
        found = {}
        for reader in READERS:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            damage(copy)
            code, text, got = reading(reader, copy)
            found[reader] = judged(name, code, text, got, *right[reader]), text
            for path in [*copy.rglob("*"), *copy.rglob("*")]:  # twice: what a closed folder holds is not found before
                if not path.is_symlink():
                    path.chmod(0o700)
        ends = ", ".join(f"{key} {one[0]}" for key, one in found.items())
        print(f"{number + 1}/{len(tried)} {name}: {ends}", flush=True)
        for reader, (outcome, text) in found.items():
            counts[reader][outcome] += 1
            if outcome not in ("fine", "one line", "no trace"):
                print(f"--- {reader}\n{text[-3000:]}", flush=True)
    print(f"\n{len(tried)} damages\n| | {' | '.join(OUTCOMES)} |")
    for reader, counted in counts.items():
        print(f"| {reader}.py | {' | '.join(str(counted[outcome]) for outcome in OUTCOMES)} |")


if __name__ == "__main__":
    main()
