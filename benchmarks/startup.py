"""Times the first inference of a process, with an empty and with a filled compilation cache.

    python benchmarks/startup.py --config coco_lite

Each round runs two processes: the first has an empty compilation cache, the second uses the cache of the first. Prints
medians over the rounds in seconds and, in brackets, the processor time of all cores, which depends less on other load.
Weights are random; the image is noise of 640×480 pixels.
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

STAGES = ("import and network", "first propose", "second propose")


def child(config: str, folder: str) -> None:
    """Prints (wall seconds, processor seconds) of each stage of this process, and the device."""
    times = [(time.perf_counter(), time.process_time())]
    import jax
    import numpy as np

    from fastmask_jax.configuration import load_config
    from fastmask_jax.inference.generator import ProposalGenerator
    from fastmask_jax.inference.load import config_spec, keep_compiled
    from fastmask_jax.models.build import build_model, initial_variables

    keep_compiled(folder)
    settings = load_config(config_spec(config))
    model = build_model(settings.model.to_dict())
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initial_variables(model, 0))
    variables = jax.tree.map(lambda x: 0.05 * np.abs(rng.standard_normal(x.shape)).astype(x.dtype), shapes)
    generator = ProposalGenerator(model, variables, settings, report=lambda line: None)
    image = rng.integers(0, 256, (480, 640, 3), np.uint8)
    times.append((time.perf_counter(), time.process_time()))
    for _ in range(2):
        generator.propose(image)
        times.append((time.perf_counter(), time.process_time()))
    stages = [[after - before for before, after in zip(*both, strict=True)] for both in pairwise(times)]
    print(json.dumps([*stages, device_name()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="coco_lite", help="bundled config or config file (default: coco_lite)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", metavar="CACHE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.config, options.child)
        return
    taken: dict[str, list] = {"first process": [], "second process": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for runs in taken.values():
                command = [sys.executable, __file__, "--config", options.config, "--child", folder]
                *stages, device = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                runs.append(stages)
    print(f"{options.config} on {device}, medians of {options.rounds} rounds in seconds (of all cores together):")
    print(f"| | {' | '.join(STAGES)} |\n|---|---|---|---|")
    for name, runs in taken.items():
        wall, cpu = (
            [statistics.median(run[stage][clock] for run in runs) for stage in range(len(STAGES))] for clock in (0, 1)
        )
        print(f"| {name} | {' | '.join(f'{w:.1f} ({c:.1f})' for w, c in zip(wall, cpu, strict=True))} |")


if __name__ == "__main__":
    main()
