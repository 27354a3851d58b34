"""fastmask train: trains a network, or resumes a run."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fastmask_jax.apps.command_line.cluster_flags import add_cluster_flags, check_cluster_flags
from fastmask_jax.apps.command_line.interrupts import ending_at_once
from fastmask_jax.configuration import load_config, parse_command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="fastmask train",
        description="Trains FastMask. Resumes from the latest checkpoint in --workdir, if there is one.",
        epilog="Any setting of the config: --config.section.key=value, as in --config.optimizer.learning_rate=0.002",
    )
    parser.add_argument(
        "--config", required=True, help="config file, with a variant after a colon: configs/coco.py:zoom"
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        help="folder of checkpoints, metrics and pictures (default: runs/CONFIG_NAME)",
        default=None,
    )
    parser.add_argument("--weights", metavar="SPEC", help="initial weights: see docs/weights.md (default: random)")
    add_cluster_flags(parser)
    options, overrides = parse_command_line(parser, arguments)
    check_cluster_flags(parser, options)
    config = load_config(options.config, overrides)
    workdir = options.workdir or Path("runs") / Path(options.config.partition(":")[0]).stem

    with ending_at_once():  # JAX is imported here, after the fast checks
        from fastmask_jax import cluster
        from fastmask_jax.training.interruptions import signals
        from fastmask_jax.training.loop import Diverged, run

    try:
        with ExitStack() as end, cluster.joined(options):
            outcome = run(config, workdir, options.weights)
            if outcome.stopped_by:  # a second signal must not end this process while the others still wait for it
                end.enter_context(signals())
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 128 + outcome.stopped_by if outcome.stopped_by else 0
