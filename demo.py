"""Proposals in the browser: python demo.py [--weights runs/coco]"""

import sys

from fastmask_jax.apps.command_line.main import run

if __name__ == "__main__":
    run("demo", *sys.argv[1:])
