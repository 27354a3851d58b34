"""Runs the benchmarks of speed and memory on this machine, whatever devices it has.

    PYTHONPATH=. python benchmarks/all.py --out runs/benchmarks
    PYTHONPATH=. python benchmarks/all.py --out runs/benchmarks --annotations instances_val.json --records RECORDS

Writes each benchmark's output to OUT/NAME.txt, all tables to OUT/benchmarks.md, and to OUT/benchmarks.json the tables
as lists of rows, with device, versions, commands and times. Benchmarks that need something that is missing (PyTorch,
annotations, records) are left out and named. If one fails, the others still run, and the exit status is 1.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from timing import device_name

FOLDER = Path(__file__).parent
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch")


def benchmarks(options: argparse.Namespace) -> dict[str, list[str] | str]:
    """Returns {name: words of its command after `python`, or why it is left out}."""
    rounds = ["--rounds", str(options.rounds)]
    commands: dict[str, list[str] | str] = {
        "windows": ["windows.py", *rounds],
        "bodies": ["bodies.py", *rounds],
        "convolutions": ["convolutions.py", *rounds],
        "pointwise": ["pointwise.py", *rounds],
        "pasting": ["pasting.py", "--repeats", str(options.rounds)],
        "suppression": ["suppression.py", *rounds],
        "startup": ["startup.py", *rounds],
        "growth": ["growth.py", *rounds],
    }
    for name in ("coco", "coco:bfloat16", "coco_few"):
        config, _, variant = name.partition(":")
        spec = f"configs/{config}.py" + (f":{variant}" if variant else "")
        batch = ["--batch", *map(str, options.batch), "--runs", str(options.rounds)]
        commands[f"step_{name.replace(':', '_')}"] = ["step.py", "--config", spec, *batch]
    commands["against_pytorch"] = (
        ["against_pytorch.py", *rounds] if importlib.util.find_spec("torch") else "needs PyTorch: pip install torch"
    )
    commands["recall"] = (
        ["recall.py", "--annotations", str(options.annotations)] if options.annotations else "needs --annotations"
    )
    commands["pipeline"] = ["pipeline.py", "--records", str(options.records)] if options.records else "needs --records"
    commands["proposing"] = ["proposing.py", str(options.image), *rounds] if options.image else "needs --image"
    return {name: command for name, command in commands.items() if not options.only or name in options.only}


def tables(text: str) -> list[list[dict[str, str]]]:
    """Returns the Markdown tables of a text; each row is a dict by column titles."""
    found: list[list[dict[str, str]]] = []
    titles: list[str] | None = None
    for line in [*text.splitlines(), ""]:
        if not line.startswith("|"):
            titles = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if titles is None:
            titles = cells
            found.append([])
        elif set("".join(cells)) - set("-: "):
            found[-1].append(dict(zip(titles, cells, strict=False)))
    return [rows for rows in found if rows]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that matter."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        if importlib.util.find_spec(name):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs of each benchmark (default: 5)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images per device in a training step")
    parser.add_argument("--annotations", type=Path, help="COCO annotations, for recall")
    parser.add_argument("--records", type=Path, help="records of a split written by prepare.py, for pipeline")
    parser.add_argument("--image", type=Path, help="a photograph, for proposing")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"device": device_name(), "versions": versions(), "benchmarks": {}}
    markdown = [f"{about['device']}; {', '.join(f'{name} {version}' for name, version in about['versions'].items())}"]
    failed = []
    for name, command in benchmarks(options).items():
        if isinstance(command, str):
            print(f"{name}: left out, {command}", flush=True)
            about["benchmarks"][name] = {"left out": command}
            continue
        begin = time.perf_counter()
        words = [str(FOLDER / command[0]), *command[1:]]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        (options.out / f"{name}.txt").write_text(done.stdout + done.stderr)
        print(f"{name}: exit {done.returncode} after {seconds:.0f} s", flush=True)
        shown = f"python benchmarks/{' '.join(command)}"
        about["benchmarks"][name] = {
            "command": shown,
            "exit": done.returncode,
            "seconds": round(seconds, 1),
            "tables": tables(done.stdout),
        }
        markdown += [f"## {name}", f"`{shown}`", done.stdout.strip() if done.returncode == 0 else "failed"]
        failed += [name] * (done.returncode != 0)
        (options.out / "benchmarks.md").write_text("\n\n".join(markdown) + "\n")
        (options.out / "benchmarks.json").write_text(json.dumps(about, indent=1) + "\n")
    if failed:
        print(f"failed: {', '.join(failed)}; see {options.out}/NAME.txt")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
