"""fastmask COMMAND: dispatches to a command and exits with its status."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import NoReturn

from fastmask_jax.apps.command_line.interrupts import INTERRUPTED, ending_at_once
from fastmask_jax.apps.command_line.missing_packages import naming_the_extra
from fastmask_jax.configuration import run_command

COMMANDS = {  # modules of this package (with _ for -), each with `main(arguments) -> exit status`
    "train": "train a network, or resume a run",
    "evaluate": "average recall of a network, or of any system's results file",
    "predict": "proposals of images and videos, as results files and pictures",
    "propose-dataset": "proposals of millions of images as Parquet, on one machine or a Ray cluster",
    "prepare": "convert a dataset to records, or draw the shapes dataset",
    "export": "write a network to one file: safetensors, JAX or ONNX",
    "demo": "serve a page that shows proposals in the browser",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `fastmask COMMAND ...`; returns its exit status, which is 2 after an error on the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        (nearest,) = get_close_matches(words[0], COMMANDS, n=1, cutoff=0.0)
        print(f"fastmask: no command {words[0]!r}; did you mean {nearest}? fastmask --help lists all", file=sys.stderr)
        return 2
    run(*words)


def run(name: str, *arguments: str) -> NoReturn:
    """Runs one command and ends the process with its exit status.

    After Ctrl-C the process ends immediately: all files are complete by then, and the results of running computations
    are not needed. It also does so after an error in a cluster, where JAX would wait for the other processes.
    """
    try:
        status = call_command(name, arguments)
    except Exception:
        if not _in_cluster():
            raise
        traceback.print_exc()
        status = 1
    if status == INTERRUPTED or _in_cluster():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _in_cluster() -> bool:
    """Returns whether this process is a member of a cluster."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def call_command(name: str, arguments: Sequence[str]) -> int:
    """Runs one command in this process, as in a notebook; returns its exit status. Handles errors as `run_command`."""
    return run_command(partial(_import_and_call, name, arguments))


def _import_and_call(name: str, arguments: Sequence[str]) -> int:
    with naming_the_extra(name):
        with ending_at_once():
            module = importlib.import_module(f"fastmask_jax.apps.command_line.{name.replace('-', '_')}")
        return module.main(arguments)


def _usage() -> str:
    lines = [f"  {name:17}{text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: fastmask COMMAND [OPTION ...]", "", *lines, "", "fastmask COMMAND --help says more."])
