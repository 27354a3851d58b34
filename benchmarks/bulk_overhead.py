"""Compares fastmask propose-dataset with predict.py on the same images: seconds per image and startup time.

python benchmarks/bulk_overhead.py --images photos --rounds 2

predict.py runs on few and on many images; its time per image is the difference between the two times, divided by the
number of additional images. propose-dataset, whose start takes long and varies, writes a file for each few images; its
time per image is that between the first and the last file. From its rate follow the actors for 10⁷ images in a day.
"""

import argparse
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command: list[str], images: list[Path], folder: Path) -> float:
    """Returns the wall time of a command on a list of images."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "list").write_text("\n".join(map(str, images)))
    words = [sys.executable, "-m", "fastmask_jax", *command, f"@{folder / 'list'}", "--out", str(folder / "out")]
    begin = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files, used in name order")
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", type=int, default=100, help="proposals per image (default: 100)")
    words = parser.parse_args()
    images = [path.absolute() for path in sorted(words.images.glob("*.jpg"))[: words.many]]
    if len(images) < words.many:
        parser.error(f"--many {words.many}: {words.images} has {len(images)} JPEG files")
    commands = {name: [name, "--count", str(words.count)] for name in ("predict", "propose-dataset")}
    per_image: dict[str, list[float]] = {name: [] for name in commands}
    more = words.many - words.few
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        seconds(commands["predict"], images, run)  # fills the compilation cache of both
        for _ in range(words.rounds):
            few, many = (seconds(commands["predict"], images[:n], run) for n in (words.few, words.many))
            per_image["predict"].append((many - few) / more)
            whole = seconds([*commands["propose-dataset"], "--shard_images", str(words.few)], images, run)
            ends = sorted(path.stat().st_mtime for path in (run / "out/shards").iterdir())
            per_image["propose-dataset"].append((ends[-1] - ends[0]) / more)
            for name, total in (("predict", many), ("propose-dataset", whole)):
                start = total - words.many * per_image[name][-1]
                print(f"{name}: {per_image[name][-1]:.3f} s/image, {start:.1f} s to start and end", flush=True)
    plain, bulk = (statistics.median(per_image[name]) for name in commands)
    print(f"{words.count} proposals: overhead per image {100 * (bulk / plain - 1):+.1f} %")
    hours = 1e7 * bulk / 3600
    print(f"10^7 images: {1 / bulk:.2f} images/s, {hours:,.0f} actor-hours, {math.ceil(hours / 24)} actors for a day")


if __name__ == "__main__":
    main()
