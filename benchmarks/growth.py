"""Time and memory of proposing against image area, proposals, batch size and devices.

    python benchmarks/growth.py --rounds 5 --out docs/pictures/growth.svg

Each point is a process of its own: the bundled network proposes on noise images of 3:4. Prints a Markdown table with
the median seconds per image and the peak memory of the process, compilation included; `--out` also draws them
(matplotlib). Devices are simulated on the CPU's cores, so more of them only show what dividing a batch costs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from timing import device_name

WEIGHTS = "coco_few"


class Point(NamedTuple):
    """What is proposed at once.

    Attributes:
      edge: long edge of the image and of the network's input, in pixels.
      proposals: number of proposals.
      batch: images per device.
      devices: simulated devices.
    """

    edge: int = 1184
    proposals: int = 100
    batch: int = 1
    devices: int = 1


SERIES = {
    "megapixels": [Point(edge=edge) for edge in (400, 800, 1184, 1600, 2200, 3000)],
    "proposals": [Point(proposals=count) for count in (10, 100, 300, 1000, 2000)],
    "images per batch": [Point(edge=592, batch=images) for images in (1, 2, 4, 8)],
    "devices": [Point(edge=592, batch=8 // devices, devices=devices) for devices in (1, 2, 4, 8)],
}


def abscissa(series: str, point: Point) -> float:
    """Returns the quantity that a series varies."""
    values = {
        "megapixels": point.edge * height_of(point.edge) / 1e6,
        "proposals": point.proposals,
        "images per batch": point.batch,
        "devices": point.devices,
    }
    return values[series]


def height_of(edge: int) -> int:
    return edge * 3 // 4 // 8 * 8


def measure(point: Point, rounds: int) -> tuple[float, float]:
    """Returns the median seconds per image and the peak memory of this process in MiB."""
    import numpy as np

    import fastmask_jax
    from fastmask_jax.allocator import keep_freed_memory

    keep_freed_memory()
    sides = height_of(point.edge), point.edge
    sizes = [f"evaluation.long_edges=({point.edge},)", f"evaluation.buckets=({sides},)"]
    network = fastmask_jax.load(WEIGHTS, overrides=sizes, report=lambda line: None)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*sides, 3), np.uint8) for _ in range(point.batch * point.devices)]
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        network.propose(images, count=point.proposals, batch_size=point.batch)
        seconds.append((time.perf_counter() - begin) / len(images))
    return statistics.median(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(point: Point, rounds: int) -> tuple[float, float]:
    """Measures a point in a new process."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={point.devices}"
    command = [sys.executable, __file__, "--rounds", str(rounds), "--point", *map(str, point)]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, check=True, stdout=subprocess.PIPE, text=True)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def draw(path: str, found: dict[str, list[tuple[float, float, float]]]) -> None:
    """Draws one column per series: seconds per image above, memory below."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(found), figsize=(3 * len(found), 5), sharex="col", squeeze=False, layout="constrained"
    )
    for column, (name, points) in enumerate(found.items()):
        x, seconds, memory = zip(*points, strict=True)
        for axis, y in zip(axes[:, column], (seconds, memory), strict=True):
            axis.plot(x, y, marker="o", color="black", markersize=4, linewidth=1)
            axis.set_xlim(0)
            axis.set_ylim(0)
            axis.grid(alpha=0.3)
        axes[1, column].set_xlabel(name)
    axes[0, 0].set_ylabel("seconds per image")
    axes[1, 0].set_ylabel("peak memory, MiB")
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", metavar="FILE", help="file to draw: .svg, .png or .pdf")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES), help="(default: all)")
    parser.add_argument("--point", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(Point(*options.point), options.rounds)))
        return
    print(f"{WEIGHTS}, medians of {options.rounds} rounds, {device_name()}\n")
    print("| series | long edge | proposals | images × devices | s/image | peak memory, MiB |")
    print("|---|---:|---:|---:|---:|---:|")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name in options.series:
        for point in SERIES[name]:
            seconds, memory = in_process(point, options.rounds)
            found.setdefault(name, []).append((abscissa(name, point), seconds, memory))
            sides = f"{point.edge} | {point.proposals} | {point.batch} × {point.devices}"
            print(f"| {name} | {sides} | {seconds:.3f} | {memory:.0f} |", flush=True)
    if options.out:
        draw(options.out, found)


if __name__ == "__main__":
    main()
