"""Trains FastMask: python train.py --config configs/coco.py --workdir runs/coco [--config.key=value ...]"""

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from fastmask_jax.configuration import load_config, parse_command_line, run_command


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Trains FastMask. Started again with the same --workdir, it goes on from its latest checkpoint.",
        epilog="Any setting of the config: --config.section.key=value, as in --config.optimizer.learning_rate=0.002",
    )
    parser.add_argument(
        "--config", required=True, help="config file, with a variant after a colon: configs/coco.py:zoom"
    )
    parser.add_argument(
        "--workdir", type=Path, help="checkpoints, metrics, pictures (default: runs/NAME_OF_THE_CONFIG)", default=None
    )
    parser.add_argument(
        "--weights", metavar="SPEC", help="what to begin with: see docs/weights.md (default: from nothing)"
    )
    options, overrides = parse_command_line(parser)
    config = load_config(options.config, overrides)
    workdir = options.workdir or Path("runs") / Path(options.config.partition(":")[0]).stem

    from fastmask_jax.training.loop import Diverged, run  # JAX starts here: mistakes above are answered at once
    from fastmask_jax.weights.specs import load_weights

    weights = partial(load_weights, options.weights, config.model.to_dict()) if options.weights else None
    try:
        outcome = run(config, workdir, weights)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 130 if outcome.stopped_by == signal.SIGINT else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
