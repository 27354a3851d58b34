"""Runs every command on a disk with too little space, and shows what it says.

mount -t tmpfs -o size=2m tmpfs /mnt/small
PYTHONPATH=. python benchmarks/full_disk.py --out runs/full_disk --disk /mnt/small

Each command runs several times; each time a file leaves it less of the disk. Right is an end with exit code 2 and one
line that names the file and the remedy, or with 0 where the space was enough.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests import tiny

FREE = (0, 4, 32, 128, 512, 1024)  # KiB
SECONDS = 240  # for one command


def leave(disk: Path, kib: int) -> None:
    """Empties a disk but for so much space."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - (kib << 10)))


def judged(name: str, kib: int, words: list[str], environment: dict[str, str]) -> bool:
    """Runs a command, prints a row of the table, and returns whether it ended as it should."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"| {name} | {kib} | no end |", flush=True)
        return False
    lines = [
        line for line in done.stderr.replace("\r", "\n").splitlines() if line and "it/s" not in line and "|" not in line
    ]
    errors = [line for line in lines if line.startswith("error: ")]
    right = done.returncode == 0 or (done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr)
    said = errors[0] if errors else " / ".join(lines[-3:])
    print(f"| {name} | {kib} | {done.returncode} | {time.monotonic() - begin:.0f} s | {said} |", flush=True)
    if not right:
        print(done.stderr[-4000:])
    return right


def main() -> None:
    """Runs all commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of data and runs, with enough space")
    parser.add_argument("--disk", type=Path, required=True, help="folder of a disk of 2 MB, which will be emptied")
    parser.add_argument("--only", nargs="+", help="names of commands (default: all)")
    parser.add_argument(
        "--free", type=int, nargs="+", default=FREE, metavar="KIB", help=f"space left (default: {FREE})"
    )
    options = parser.parse_args()
    out, disk = options.out.absolute(), options.disk.absolute()
    if not os.path.ismount(disk):
        parser.error(f"--disk {disk}: not the root of a mounted disk")
    out.mkdir(parents=True, exist_ok=True)
    data = tiny.dataset(out)
    environment = tiny.environment(out / "compiled")
    run = ["--config", tiny.CONFIG, "--workdir"]
    few = tiny.overrides(data, train__images=12, train__evaluate_every=2, train__picture_every=2, train__log_every=1)
    trained = out / "run"
    if not trained.exists():
        subprocess.run([sys.executable, "train.py", *run, str(trained), *few], env=environment, check=True)
    images, annotations = str(data / "images"), str(data / "annotations/instances_val.json")
    weights = ["--weights", str(out / "net.safetensors")]  # read by every version of orbax: that of onnx is another
    if not (out / "net.safetensors").exists():
        words = ["--weights", str(trained), "--format", "safetensors", "--out", str(out / "net.safetensors")]
        subprocess.run([sys.executable, "export.py", *words], env=environment, check=True)
    commands = {
        "train.py": ["train.py", *run, str(disk / "run"), *few],
        "prepare.py coco": ["prepare.py", "coco", "--annotations", annotations, "--images", images, "--out", str(disk)],
        "prepare.py shapes": ["prepare.py", "shapes", "--train", "8", "--val", "2", "--out", str(disk / "shapes")],
        "evaluate.py": ["evaluate.py", *run, str(disk / "run"), *weights, "--sheet", "--pictures", "2", *few],
        "predict.py": [
            "predict.py",
            images,
            *weights,
            "--overlays",
            "--npz",
            "--format",
            "coco",
            "--out",
            str(disk / "p"),
        ],
        "export.py safetensors": [
            "export.py",
            *weights,
            "--format",
            "safetensors",
            "--out",
            str(disk / "x.safetensors"),
        ],
        "export.py jax": ["export.py", *weights, "--format", "jax", "--out", str(disk / "x.npz")],
        "export.py onnx": ["export.py", *weights, "--format", "onnx", "--out", str(disk / "x.onnx")],
        "fastmask propose-dataset": [
            "-m",
            "fastmask_jax",
            "propose-dataset",
            images,
            *weights,
            "--out",
            str(disk / "b"),
        ],
    }
    right = []
    for name in options.only or commands:
        for kib in options.free:
            leave(disk, kib)
            right.append(judged(name, kib, commands[name], environment))
    print(f"{sum(right)} of {len(right)} as they should")


if __name__ == "__main__":
    main()
