"""Average recall on COCO-format data: python evaluate.py --config configs/coco.py --workdir runs/coco [--limit 5000]"""

import sys

from fastmask_jax.apps.command_line.main import run

if __name__ == "__main__":
    run("evaluate", *sys.argv[1:])
