"""Proposals of images and videos: python predict.py --weights net.caffemodel photos/ film.mp4 --overlays --out DIR"""

import sys

from fastmask_jax.apps.command_line.main import run

if __name__ == "__main__":
    run("predict", *sys.argv[1:])
