"""Trains FastMask: python train.py --config configs/coco.py --workdir runs/coco [--config.key=value ...]"""

import sys

from fastmask_jax.apps.command_line.main import run

if __name__ == "__main__":
    run("train", *sys.argv[1:])
