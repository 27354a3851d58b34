"""The picture of docs/results.md and the README: proposals of the bundled network on photographs of scikit-image.

    PYTHONPATH=. python docs/photographs.py                 # writes docs/pictures/photographs.jpg

The photographs come with scikit-image's wheel and are free to use: chelsea, coffee and rocket are dedicated to the
public domain (CC0), the astronaut's portrait is NASA's. None of them was trained on.
"""

import argparse
import importlib.metadata
from pathlib import Path

from PIL import Image

import fastmask_jax

NAMES = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")
HEIGHT = 300
GAP = 6
OUT = Path(__file__).parent / "pictures" / "photographs.jpg"


def photograph(name: str) -> Image.Image:
    """A photograph of scikit-image's wheel, RGB."""
    (file,) = (file for file in importlib.metadata.files("scikit-image") if file.match(f"skimage/data/{name}"))
    return Image.open(file.locate()).convert("RGB")


def row(pictures: list[Image.Image]) -> Image.Image:
    """Pictures side by side at one height."""
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
    parser.add_argument("--count", type=int, default=6, help="proposals of a photograph (default: 6)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"(default: {OUT.name} in docs/pictures)")
    options = parser.parse_args()
    generator = fastmask_jax.load(options.weights)
    found = generator.propose([photograph(name) for name in NAMES], count=options.count, nms_iou=0.5)
    row([one.overlay() for one in found]).save(options.out, quality=88)
    print(options.out)


if __name__ == "__main__":
    main()
