"""Times proposing on one photograph with the library: seconds from the pixels to RLE masks.

    python benchmarks/proposing.py photo.jpg --counts 100 1000 --rounds 15

Medians of alternating runs in one process, for each precision and number of proposals.
"""

import argparse
from functools import partial

from timing import device_name, medians

import fastmask_jax
from fastmask_jax.allocator import keep_freed_memory
from fastmask_jax.inference.image_input import read_image
from fastmask_jax.inference.options import ProposeOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", help="an image file")
    parser.add_argument("--weights", default="coco_few", metavar="SPEC", help="(default: coco_few)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--long_edges", type=int, nargs="+", help="test scales (default: the network's)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_freed_memory()
    scales = ProposeOptions(long_edges=options.long_edges)
    pixels = read_image(options.image)
    runs = {}
    for precision in options.precisions:
        network = fastmask_jax.load(options.weights, precision=precision)
        for count in options.counts:
            runs[precision, count] = partial(network.propose, pixels, scales, count=count), ()
    milliseconds = medians(runs, options.rounds)
    print(f"{device_name()}; {options.weights}, {options.image}; medians of {options.rounds} rounds\n")
    print("| precision | proposals | ms |\n|---|---:|---:|")
    for (precision, count), ms in milliseconds.items():
        print(f"| {precision} | {count} | {ms:.0f} |")


if __name__ == "__main__":
    main()
