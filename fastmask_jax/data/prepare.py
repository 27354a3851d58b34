"""Converts datasets to records: COCO, other data in COCO format, or drawn shapes."""

from pathlib import Path

from fastmask_jax.data.atomic_directory import appearing_whole, refuse_existing
from fastmask_jax.data.coco.held_out import hold_out, write_annotations
from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.data.coco.record_builder import PROBLEMS, build
from fastmask_jax.data.exif import Exif
from fastmask_jax.data.image_header import MAX_PIXELS
from fastmask_jax.data.records import INDEX, check_array_record
from fastmask_jax.data.shapes.dataset import ShapesSpec, write_split
from fastmask_jax.errors import ExistingFile, InvalidInput, MissingFile

HELD_OUT = "val.json"
COCO_SPLITS = ("train", "val")
_DOWNLOADS = "http://images.cocodataset.org"
IDS_OF_A_SPLIT = 1_000_000  # ids of drawn training images start at 1, those of val at this offset


def prepare_coco(
    annotations: Path,
    images: Path,
    out: Path,
    split_name: str,
    *,
    workers: int,
    overwrite: bool = False,
    exif: Exif = "ignore",
    val: float = 0.0,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> str:
    """Writes one annotation file and its images as records to `out`/`split_name`.

    With `val`, holds out that fraction of the images, selected by `seed`, and writes their annotations to
    `out`/val.json, for evaluation on the same image folder. Images of more than `max_pixels` are not decoded.

    Returns a readable summary of what was written and what was skipped.

    Raises:
      ValueError, OSError: one line; see `read_instances` and `builder.build`.
    """
    check_array_record()
    directory = out / split_name
    refuse_existing(directory, INDEX, overwrite)
    split = read_instances(annotations, images)
    lines = []
    if val:
        if (out / HELD_OUT).exists() and not overwrite:
            raise ExistingFile(f"{out / HELD_OUT}: already exists; use --overwrite to build it again")
        split, held = hold_out(split, val, seed)
        checked = check(held, workers, exif, max_pixels)
        if not checked:
            raise InvalidInput(f"{annotations}: none of {len(held.images)} images to hold out is usable")
        objects = sum(not one.crowd for image in checked for one in image.objects)
        lines.append(f"{HELD_OUT}: {len(checked)} images held out, {objects} objects")
    built = build(
        split,
        directory,
        split_name=split_name,
        workers=workers,
        overwrite=overwrite,
        exif=exif,
        max_pixels=max_pixels,
    )
    if val:
        write_annotations(held, checked, out / HELD_OUT)
    lines.insert(
        0,
        f"{split_name}: {built.images} images ({built.without_objects} without objects), {built.objects} objects, "
        f"{built.crowds} crowds",
    )
    if built.turned:
        lines.append(f"turned upright by their EXIF orientation: {built.turned} images")
    if not built.objects:
        lines.append(f"nothing to train on: {split_name} has no object ({built.crowds} crowds are not trained on)")
    if split.report:
        lines += [f"problems (also in {split_name}/{PROBLEMS}):", split.report.summary()]
    return "\n".join(lines)


def prepare_coco_year(year: int, root: Path, out: Path, *, workers: int, overwrite: bool = False) -> str:
    """Converts both splits of COCO 2014 or 2017 from the official folders: `root`/train2017, `root`/annotations, …

    Raises:
      FileNotFoundError: a file is missing; the message says what to download.
    """
    sources = {
        name: (root / "annotations" / f"instances_{name}{year}.json", root / f"{name}{year}") for name in COCO_SPLITS
    }
    archives = {}
    for name, (annotations, images) in sources.items():
        archives[annotations] = f"{_DOWNLOADS}/annotations/annotations_trainval{year}.zip"
        archives[images] = f"{_DOWNLOADS}/zips/{name}{year}.zip"
        refuse_existing(out / name, INDEX, overwrite)
    missing = [path for path in archives if not path.exists()]
    if missing:
        urls = dict.fromkeys(archives[path] for path in missing)
        raise MissingFile(
            f"{', '.join(map(str, missing))}: missing; download {' and '.join(urls)} and unpack in {root}"
        )
    return "\n".join(
        prepare_coco(annotations, images, out, name, workers=workers, overwrite=overwrite)
        for name, (annotations, images) in sources.items()
    )


def prepare_shapes(
    out: Path, *, train: int, val: int, seed: int, workers: int, overwrite: bool = False, spec: ShapesSpec | None = None
) -> str:
    """Draws the shapes dataset: `out`/images and `out`/annotations in COCO format, `out`/records/train and …/val.

    Args:
      out: output folder, written atomically.
      train, val: numbers of images.
      seed: the same seed (and version of OpenCV) gives the same files.
      workers: worker processes; 0: none.
      overwrite: replace a finished dataset at `out`.
      spec: what is drawn; None: the default.

    Raises:
      FileExistsError: `out` exists and is not a shapes dataset, or `overwrite` is not set.
    """
    check_array_record()
    refuse_existing(out, f"records/{COCO_SPLITS[-1]}/{INDEX}", overwrite)
    lines = []
    with appearing_whole(out) as new:
        for order, (name, number) in enumerate(zip(COCO_SPLITS, (train, val), strict=True)):
            first = 1 + order * IDS_OF_A_SPLIT
            annotations = write_split(spec or ShapesSpec(), new, name, number, (seed, order), first, workers)
            lines.append(prepare_coco(annotations, new / "images", new / "records", name, workers=workers))
    return "\n".join(lines)
