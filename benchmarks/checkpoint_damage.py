"""Damages the latest checkpoint of a run in every way, and counts what reading it comes to.

PYTHONPATH=. python benchmarks/checkpoint_damage.py --out runs/damage

Each damage is done to a copy of a run with checkpoints of steps 2, 4 and 6, all evaluated, the last the best. The copy
is then read as train.py does to resume, as evaluate.py does, and as predict.py does, each in a process of its own with
the commands' handling of errors. Right are the very arrays of step 6 or, with a line that names the damaged checkpoint,
of step 4. Run it as another user than root, who may read any file.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fastmask_jax.configuration import run_command
from fastmask_jax.models.build import build_model
from fastmask_jax.training.loop import with_batch_of_run
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import create_state
from fastmask_jax.weights.checkpoints import Checkpoints
from fastmask_jax.weights.damage import checksums
from fastmask_jax.weights.native import restore_model
from fastmask_jax.weights.sources import config_of, load_trained
from tests import tiny

LATEST = Path("checkpoints/6")
OUTCOMES = ("fine", "one line", "refused in one line", "wrong values", "traceback", "more lines", "no end")
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


def resumed(run: Path, config: ConfigDict) -> Any:
    """What train.py begins with."""
    config = with_batch_of_run(config, run)
    optimizer, _ = build_optimizer(config.optimizer.to_dict(), config.train.batch_size, config.train.images)
    begin = partial(create_state, build_model(config.model.to_dict()), optimizer, config.seed, False)
    checkpoints = Checkpoints(run, config.to_dict())
    found = checkpoints.resume(jax.eval_shape(begin))
    for line in found.passed_over:
        print(line)
    checkpoints.close()
    return found.state


def evaluated(run: Path, config: ConfigDict) -> Mapping[str, Any]:
    """What evaluate.py begins with."""
    return restore_model(config, run)[1]


def predicted(run: Path, config: ConfigDict) -> Mapping[str, Any]:
    """What predict.py begins with."""
    return load_trained(str(run), config_of(str(run)).model.to_dict()).variables


READERS = {"train": resumed, "evaluate": evaluated, "predict": predicted}


def _read(reader: str, run: Path, config: ConfigDict, written: Path, digests: Path) -> None:
    with written.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)

    def read() -> int:
        leaves = jax.tree_util.tree_leaves_with_path(READERS[reader](run, config))
        digests.write_text(json.dumps(checksums({jax.tree_util.keystr(path): leaf for path, leaf in leaves})))
        return 0

    try:
        sys.exit(run_command(read))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


class Reading:
    """Reads runs in processes of their own, which have imported everything before."""

    def __init__(self, out: Path, config: ConfigDict) -> None:
        self._out, self._config = out, config
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.checkpoint_damage"])

    def __call__(self, reader: str, run: Path) -> tuple[int | None, str, str]:
        """Returns (exit code or None after `SECONDS`, what was written, checksums of the arrays)."""
        written, digests = self._out / "written.txt", self._out / "digests.json"
        digests.unlink(missing_ok=True)
        process = self._context.Process(target=_read, args=(reader, run, self._config, written, digests))
        process.start()
        process.join(SECONDS)
        code = process.exitcode
        process.kill()
        process.join()
        return code, written.read_text(errors="replace"), digests.read_text() if digests.is_file() else ""


def judged(code: int | None, text: str, right: bool) -> str:
    """Names the outcome of one command."""
    said = [line for line in text.splitlines() if "not a whole checkpoint" in line or line.startswith("error: ")]
    if code is None:
        return "no end"
    if "Traceback" in text or code not in (0, 2):
        return "traceback"
    if len(said) > 1:
        return "more lines"
    if code == 2:
        return "refused in one line"
    if not right:
        return "wrong values"
    return "one line" if said else "fine"


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
    read = Reading(out, tiny.config(data, **every))
    right = {reader: [read(reader, run)[2] for run in (whole, earlier)] for reader in READERS}
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
            code, text, got = read(reader, copy)
            found[reader] = judged(code, text, got in right[reader]), text
            for path in [*copy.rglob("*"), *copy.rglob("*")]:  # twice: what a closed folder holds is not found before
                if not path.is_symlink():
                    path.chmod(0o700)
        ends = ", ".join(f"{key} {one[0]}" for key, one in found.items())
        print(f"{number + 1}/{len(tried)} {name}: {ends}", flush=True)
        for reader, (outcome, text) in found.items():
            counts[reader][outcome] += 1
            if outcome not in ("fine", "one line"):
                print(f"--- {reader}\n{text[-3000:]}", flush=True)
    print(f"\n{len(tried)} damages\n| | {' | '.join(OUTCOMES)} |")
    for reader, counted in counts.items():
        print(f"| {reader}.py | {' | '.join(str(counted[outcome]) for outcome in OUTCOMES)} |")


if __name__ == "__main__":
    main()
