"""A network for other programs: python export.py --weights runs/coco --format onnx --batch any --out net.onnx"""

import sys

from fastmask_jax.apps.command_line.main import run

if __name__ == "__main__":
    run("export", *sys.argv[1:])
