"""Times the first inference of a process, with an empty and with a filled compilation cache.

    python benchmarks/startup.py --weights coco_few

Each round runs two processes: the first has an empty compilation cache, the second uses the cache of the first. Prints
medians over the rounds in seconds and, in parentheses, the processor time of all cores, which depends less on other
load. The image is noise of 640×480 pixels.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

from timing import device_name

STAGES = ("import", "load", "first proposals", "next proposals")


def child(weights: str, folder: str) -> None:
    """Prints (wall seconds, processor seconds) of each stage of this process, and the device."""
    times = [(time.perf_counter(), time.process_time())]

    def stage_ends() -> None:
        times.append((time.perf_counter(), time.process_time()))

    import numpy as np

    import fastmask_jax

    stage_ends()
    network = fastmask_jax.load(weights, compilation_cache=folder, report=lambda line: None)
    stage_ends()
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    for _ in range(2):
        network.propose(image)
        stage_ends()
    stages = [[after - before for before, after in zip(*both, strict=True)] for both in pairwise(times)]
    print(json.dumps([*stages, device_name()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="coco_few", metavar="SPEC", help="trained network (default: coco_few)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", metavar="CACHE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.weights, options.child)
        return
    taken: dict[str, list] = {"empty cache": [], "filled cache": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for runs in taken.values():
                command = [sys.executable, __file__, "--weights", options.weights, "--child", folder]
                *stages, device = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                runs.append(stages)
    print(f"{options.weights} on {device}, medians of {options.rounds} rounds in seconds (of all cores together):")
    print(f"| | {' | '.join(STAGES)} |\n|---|{'---:|' * len(STAGES)}")
    for name, runs in taken.items():
        wall, cpu = (
            [statistics.median(run[stage][clock] for run in runs) for stage in range(len(STAGES))] for clock in (0, 1)
        )
        print(f"| {name} | {' | '.join(f'{w:.2f} ({c:.2f})' for w, c in zip(wall, cpu, strict=True))} |")


if __name__ == "__main__":
    main()
