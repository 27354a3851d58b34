"""What prepare.py does: COCO, anyone's data of that format, or the drawn shapes → records."""

import argparse
import os
import re
import sys
from pathlib import Path

from fastmask_jax.data import coco_json
from fastmask_jax.data.builder import PROBLEMS, build
from fastmask_jax.data.records import INDEX
from fastmask_jax.data.shapes import ShapesSpec, write_split
from fastmask_jax.data.staging import appearing_whole, refuse_existing

COCO_SPLITS = ("train", "val")
_DOWNLOADS = "http://images.cocodataset.org"
_IDS_OF_A_SPLIT = 1_000_000  # drawn images' ids start from 1, and those of val from as many later


def prepare_coco(
    annotations: Path, images: Path, out: Path, split_name: str, *, workers: int, overwrite: bool = False
) -> str:
    """Writes one annotation file and its images as records to `out`/`split_name`.

    Returns what was written and what was left out, for people to read.

    Errors:
      ValueError, OSError: one line; see `coco_json.read` and `builder.build`.
    """
    directory = out / split_name
    refuse_existing(directory, INDEX, overwrite)
    split = coco_json.read(annotations, images)
    built = build(split, directory, split_name=split_name, workers=workers, overwrite=overwrite)
    lines = [
        f"{split_name}: {built.images} images ({built.without_objects} without objects), {built.objects} objects, "
        f"{built.crowds} crowds"
    ]
    if split.report:
        lines += [f"left out (also in {split_name}/{PROBLEMS}):", split.report.summary()]
    return "\n".join(lines)


def prepare_coco_year(year: int, root: Path, out: Path, *, workers: int, overwrite: bool = False) -> str:
    """Both splits of COCO 2014 or 2017 from the official folders: `root`/train2017, `root`/annotations, and so on.

    Errors:
      FileNotFoundError: something is not there; the line says what to download.
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
        raise FileNotFoundError(
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
      out: appears when all is done, or not at all.
      train, val: numbers of images.
      seed: the same seed (and version of OpenCV) gives the same files.
      workers: processes; 0: none besides this one.
      overwrite: replaces a finished dataset at `out`.
      spec: what is drawn; the default where None.

    Errors:
      FileExistsError: `out` is there already (and no shapes dataset, or `overwrite` not given).
    """
    refuse_existing(out, f"records/{COCO_SPLITS[-1]}/{INDEX}", overwrite)
    lines = []
    with appearing_whole(out) as new:
        for order, (name, number) in enumerate(zip(COCO_SPLITS, (train, val), strict=True)):
            first = 1 + order * _IDS_OF_A_SPLIT
            annotations = write_split(spec or ShapesSpec(), new, name, number, (seed, order), first, workers)
            lines.append(prepare_coco(annotations, new / "images", new / "records", name, workers=workers))
    return "\n".join(lines)


def whole_number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def positive_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return number


def split_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: a letter, then letters, digits and _")
    return text


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--workers", type=whole_number, default=os.cpu_count() or 1, help="processes; 0: only this one (default: cores)"
    )
    common.add_argument("--overwrite", action="store_true", help="replace records that are there")
    parser = argparse.ArgumentParser(
        prog="prepare.py", description="Put a dataset on disk as records, for train.py and evaluate.py."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="coco | coco2017 | coco2014 | shapes")

    own = commands.add_parser("coco", parents=[common], help="any COCO-format instances JSON and its image folder")
    own.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="instances JSON")
    own.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder the file names are relative to")
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="records go to DIR/SPLIT")
    own.add_argument(
        "--split", type=split_name, default="train", metavar="SPLIT", help="name of the split (default: train)"
    )

    for year in (2017, 2014):
        coco = commands.add_parser(f"coco{year}", parents=[common], help=f"train and val of COCO {year}")
        where = f"folder with train{year}, val{year} and annotations (default: datasets/coco)"
        coco.add_argument("--root", type=Path, default=Path("datasets/coco"), metavar="DIR", help=where)
        default = Path(f"datasets/coco{year}")
        coco.add_argument(
            "--out",
            type=Path,
            default=default,
            metavar="DIR",
            help=f"records go to DIR/train and DIR/val (default: {default})",
        )
        coco.set_defaults(year=year)

    shapes = commands.add_parser("shapes", parents=[common], help="draw the embedded dataset: COCO files and records")
    where = "gets images, annotations and records (default: datasets/shapes)"
    shapes.add_argument("--out", type=Path, default=Path("datasets/shapes"), metavar="DIR", help=where)
    shapes.add_argument("--train", type=positive_number, default=2000, help="training images (default: 2000)")
    shapes.add_argument("--val", type=positive_number, default=200, help="held-out images (default: 200)")
    shapes.add_argument("--seed", type=whole_number, default=0, help="the same seed draws the same files (default: 0)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs prepare.py; returns its exit status: 0, 2 after a message on stderr, 130 after Ctrl-C."""
    args = _parser().parse_args(arguments)
    common = {"workers": args.workers, "overwrite": args.overwrite}
    try:
        if args.command == "coco":
            done = prepare_coco(args.annotations, args.images, args.out, args.split, **common)
        elif args.command == "shapes":
            done = prepare_shapes(args.out, train=args.train, val=args.val, seed=args.seed, **common)
        else:
            done = prepare_coco_year(args.year, args.root, args.out, **common)
    except (OSError, ValueError) as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare.py: interrupted; unfinished records were removed", file=sys.stderr)
        return 130
    print(f"{args.out}:\n{done}")
    return 0
