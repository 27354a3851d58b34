"""Draws the picture of README.md and docs/results.md: proposals of the bundled network on scikit-image's photographs.

    PYTHONPATH=. python docs/photographs.py                 # writes docs/pictures/photographs.jpg

The photographs come with scikit-image's wheel and are free to use: chelsea and coffee are CC0, the astronaut's portrait
is NASA's, the coins are from the Brooklyn Museum, with no known copyright restrictions. The network was not trained on
them.
"""

import argparse
import importlib.metadata
from pathlib import Path

from PIL import Image

import fastmask_jax

NAMES = ("chelsea.png", "coffee.png", "astronaut.png", "coins.png")
HEIGHT = 300
GAP = 6
OUT = Path(__file__).parent / "pictures" / "photographs.jpg"


def photograph(name: str) -> Image.Image:
    """Reads a photograph from scikit-image's wheel as RGB."""
    (file,) = (file for file in importlib.metadata.files("scikit-image") if file.match(f"skimage/data/{name}"))
    return Image.open(file.locate()).convert("RGB")


def row(pictures: list[Image.Image]) -> Image.Image:
    """Places pictures side by side at one height."""
    scaled = [one.resize((round(one.width * HEIGHT / one.height), HEIGHT), Image.LANCZOS) for one in pictures]
    result = Image.new("RGB", (sum(one.width for one in scaled) + GAP * (len(scaled) - 1), HEIGHT), "white")
    x = 0
    for one in scaled:
        result.paste(one, (x, 0))
        x += one.width + GAP
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="coco_few", metavar="SPEC")
    parser.add_argument("--score", type=float, default=0.4, help="minimum score of a proposal (default: 0.4)")
    parser.add_argument("--long_edge", type=int, default=512, metavar="PIXELS", help="test scale (default: 512)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"(default: {OUT.name} in docs/pictures)")
    options = parser.parse_args()
    generator = fastmask_jax.load(options.weights)
    found = generator.propose(
        [photograph(name) for name in NAMES],
        count=30,
        score_threshold=options.score,
        nms_iou=0.5,
        long_edges=options.long_edge,
    )
    row([one.overlay() for one in found]).save(options.out, quality=88)
    print(options.out)


if __name__ == "__main__":
    main()
