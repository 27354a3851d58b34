"""Recall, time and memory of proposals on large images, with and without tiles. Needs requirements-large.txt.

    python benchmarks/large_images.py recall --annotations instances_val.json --images FOLDER
    python benchmarks/large_images.py compose --images FOLDER --side 20000 --out large.tif
    python benchmarks/large_images.py read --file large.tif
    python benchmarks/large_images.py propose --file large.tif --tile 4096

`recall` arranges photographs in grids, so that an image contains the objects of many, and computes average recall with
the same number of proposals per photograph. `compose` writes a grid of photographs to a GeoTIFF or PNG file. `read`
reads a file as `propose` does: once for the whole image and once for the tiles. Peak memory is that of the process.
"""

import argparse
import itertools
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fastmask_jax
from fastmask_jax.data.coco.file_names import image_path
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.data.coco.objects import objects_of
from fastmask_jax.data.large_image import open_large
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.inference.image_input import read_image
from fastmask_jax.inference.tiling import strips, tile_grid
from fastmask_jax.masks.coco_results import ResultsWriter
from fastmask_jax.masks.rle_regions import place

CELL = 640  # side of a grid cell in pixels; COCO photographs fit
PER_PHOTOGRAPH = (10, 100)


def megabytes() -> float:
    """Returns the peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def grids(annotations: Path, folder: Path, side: int) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """Yields images of `side` × `side` photographs on a gray background, and their objects as COCO annotations."""
    images = read_instances(annotations, None).images
    for first in range(0, len(images) - side * side + 1, side * side):
        pixels = np.full((side * CELL, side * CELL, 3), 114, np.uint8)
        objects = []
        for number, image in enumerate(images[first : first + side * side]):
            y, x = CELL * (number // side), CELL * (number % side)
            height, width = image.size
            pixels[y : y + height, x : x + width] = read_image(image_path(folder, image.file_name))
            for one in objects_of(image.annotations, image.size, image.file_name)[0]:
                (rle,) = place([{"size": list(image.size), "counts": one.counts}], (x, y), pixels.shape[:2])
                box = [one.box[0] + x, one.box[1] + y, *one.box[2:]]
                objects.append({"segmentation": rle, "bbox": box, "area": one.area, "iscrowd": int(one.crowd)})
        yield pixels, objects


def recall(options: argparse.Namespace) -> None:
    generator = fastmask_jax.load(options.weights)
    counts = [each * options.side**2 for each in PER_PHOTOGRAPH]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, composed = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}, []
        chosen = itertools.islice(grids(options.annotations, options.images, options.side), options.limit)
        for number, (pixels, objects) in enumerate(chosen, 1):
            size = {"height": pixels.shape[0], "width": pixels.shape[1]}
            truth["images"].append({"id": number, "file_name": f"{number}.png", **size})
            for one in objects:
                numbers = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": 1}
                truth["annotations"].append(one | numbers)
            composed.append(pixels)
        (folder / "truth.json").write_text(json.dumps(truth))
        print(f"{len(composed)} images of {size}, {len(truth['annotations'])} objects")
        print("tile   " + "".join(f"{f'AR@{count}':>9}" for count in counts) + "   s/image")
        for tile in options.tiles.split(","):
            begin, compiled = time.perf_counter(), generator.compile_seconds
            with ResultsWriter(folder / "results.json") as results:
                for number, pixels in enumerate(composed, 1):
                    found = generator.propose(pixels, tile=tile, count=counts[-1])
                    results.write(number, found.scored_masks)
            seconds = (time.perf_counter() - begin - generator.compile_seconds + compiled) / len(composed)
            figures = average_recall(folder / "truth.json", folder / "results.json", max_proposals=counts)
            row = "".join(f"{figures[f'segm/AR@{count}']:9.3f}" for count in counts)
            print(f"{tile:<7}{row} {seconds:9.1f}", flush=True)


def compose(options: argparse.Namespace) -> None:
    import rasterio
    from rasterio.shutil import copy
    from rasterio.windows import Window

    paths = sorted(options.images.glob("*.jpg"))
    rng = np.random.default_rng(0)
    raster = options.out.with_suffix(".tif")
    profile = {"driver": "GTiff", "width": options.side, "height": options.side, "count": 3, "dtype": "uint8"}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "photometric": "rgb"}
    place_on_earth = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.3, 0, 4e5, 0, -0.3, 5e6)}
    with rasterio.open(raster, "w", **profile, **layout, **place_on_earth) as file:
        for top in range(0, options.side, CELL):
            strip = np.full((min(CELL, options.side - top), options.side, 3), 114, np.uint8)
            for left in range(0, options.side, CELL):
                pixels = read_image(paths[rng.integers(len(paths))])[: len(strip), : options.side - left]
                strip[: pixels.shape[0], left : left + pixels.shape[1]] = pixels[:, :CELL]
            file.write(np.moveaxis(strip, 2, 0), window=Window(0, top, options.side, len(strip)))
    if options.out != raster:
        copy(raster, options.out, driver="PNG")
        raster.unlink()
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB")


def read(options: argparse.Namespace) -> None:
    image = open_large(options.file)
    before, begin = megabytes(), time.perf_counter()
    image.reduced((1184, 1184))
    reduced = time.perf_counter() - begin
    tile = options.tile
    rows = sum(len(strip) for strip in strips(image, tile_grid(image.shape[:2], tile, tile // 4)))
    seconds = time.perf_counter() - begin - reduced
    print(
        f"{options.file}, {image.shape[1]} x {image.shape[0]}: reduced in {reduced:.1f} s, {rows} rows of tiles in "
        f"{seconds:.1f} s; peak memory {megabytes():.0f} MB, before {before:.0f} MB"
    )


def propose(options: argparse.Namespace) -> None:
    generator = fastmask_jax.load(options.weights)
    generator.propose(np.zeros((options.tile, options.tile, 3), np.uint8))  # compiles
    before, begin, begin_used = megabytes(), time.perf_counter(), time.process_time()
    found = generator.propose(options.file, tile=options.tile, count=options.count)
    seconds, used = time.perf_counter() - begin, time.process_time() - begin_used
    height, width = found.image_size
    tiles = len(tile_grid((height, width), options.tile, options.tile // 4))
    print(
        f"{options.file}, {width} x {height}, {tiles} tiles: {len(found)} proposals in {seconds:.0f} s, "
        f"{used:.0f} s of processor time; peak memory {megabytes():.0f} MB, before {before:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)

    def command(run: object) -> argparse.ArgumentParser:
        added = commands.add_parser(run.__name__)
        added.set_defaults(run=run)
        return added

    one = command(recall)
    one.add_argument("--annotations", type=Path, required=True)
    one.add_argument("--images", type=Path, required=True)
    one.add_argument("--weights", default="coco_few")
    one.add_argument("--side", type=int, default=4, help="photographs along each side of an image")
    one.add_argument("--limit", type=int, help="composed images (default: all)")
    one.add_argument("--tiles", default="off,1024,640", help="values of the option tile")
    one = command(compose)
    one.add_argument("--images", type=Path, required=True)
    one.add_argument("--side", type=int, default=20_000, help="pixels")
    one.add_argument("--out", type=Path, required=True)
    for run in (read, propose):
        one = command(run)
        one.add_argument("--file", type=Path, required=True)
        one.add_argument("--tile", type=int, default=1024)
        one.add_argument("--weights", default="coco_few")
        one.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
