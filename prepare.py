"""Puts a dataset on disk as records: COCO, anyone's data of that format, or drawn shapes; see python prepare.py -h."""

import sys

from fastmask_jax.apps.command_line.main import run

if __name__ == "__main__":
    run("prepare", *sys.argv[1:])
