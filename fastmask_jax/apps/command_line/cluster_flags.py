"""Flags of commands that run on several hosts (docs/clusters.md)."""

import argparse

from fastmask_jax.apps.command_line.number_flags import integer

JOIN_SECONDS = 300


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; `check_cluster_flags` checks their values."""
    group = parser.add_argument_group(
        "several hosts",
        "SLURM, Open MPI, TPU slices and Kubernetes jobs are found without flags: see docs/clusters.md",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, with a free port")
    group.add_argument("--processes", type=integer(1), metavar="N", help="number of processes, usually one per host")
    group.add_argument("--process", type=integer(0), metavar="I", help="number of this process, from 0")
    group.add_argument(
        "--join_seconds",
        type=integer(1, 1_000_000),
        default=JOIN_SECONDS,
        metavar="S",
        help="how long to wait for all processes to start (default: %(default)s)",
    )


def check_cluster_flags(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a parser error if the flags do not describe one process of a cluster."""
    given = [options.coordinator, options.processes, options.process]
    if all(value is None for value in given):
        return
    if any(value is None for value in given):
        parser.error("--coordinator, --processes and --process belong together: give all three, or none")
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        parser.error(f"--coordinator {options.coordinator}: expected HOST:PORT, as in 10.0.0.1:1234")
    if options.process >= options.processes:
        parser.error(
            f"--process {options.process} of --processes {options.processes}: numbers run from 0 to the count minus 1"
        )
