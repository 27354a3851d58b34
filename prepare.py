"""Puts a dataset on disk as records: COCO, anyone's data of that format, or drawn shapes; see python prepare.py -h."""

import sys

from fastmask_jax.data.prepare import main

if __name__ == "__main__":
    sys.exit(main())
