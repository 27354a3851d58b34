"""fastmask prepare: converts a dataset to records, or draws the shapes dataset."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from fastmask_jax.apps.command_line.number_flags import integer, number
from fastmask_jax.config_schema import MOST_WORKERS
from fastmask_jax.data.image_header import MAX_PIXELS
from fastmask_jax.data.prepare import IDS_OF_A_SPLIT, prepare_coco, prepare_coco_year, prepare_shapes
from fastmask_jax.full_disk import AGAIN, naming_full_disk
from fastmask_jax.masks.rle import MOST_PIXELS

MOST_SEED = 2**63 - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with naming_full_disk(args.out, AGAIN):
        done = _prepare(args)
    print(f"{args.out}:\n{done}")
    return 0


def _prepare(args: argparse.Namespace) -> str:
    common = {"workers": args.workers, "overwrite": args.overwrite}
    if args.command == "coco":
        chosen = {"exif": args.exif, "val": args.val, "seed": args.seed, "max_pixels": args.max_pixels}
        return prepare_coco(args.annotations, args.images, args.out, args.split, **chosen, **common)
    if args.command == "shapes":
        return prepare_shapes(args.out, train=args.train, val=args.val, seed=args.seed, **common)
    return prepare_coco_year(args.year, args.root, args.out, **common)


def _split_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid name: use a letter, then letters, digits and _")
    return text


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--workers",
        type=integer(0, MOST_WORKERS),
        default=min(os.cpu_count() or 1, MOST_WORKERS),
        help="worker processes; 0: none (default: number of cores)",
    )
    common.add_argument("--overwrite", action="store_true", help="replace existing records")
    parser = argparse.ArgumentParser(prog="fastmask prepare", description="Converts a dataset to records for training.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="coco | coco2017 | coco2014 | shapes")

    own = commands.add_parser("coco", parents=[common], help="any COCO instances file and its image folder")
    own.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO instances JSON")
    own.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="image folder; file names are relative to it"
    )
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="writes records to DIR/SPLIT")
    own.add_argument(
        "--split", type=_split_name, default="train", metavar="SPLIT", help="name of the split (default: train)"
    )
    own.add_argument(
        "--val",
        type=number(0, 1, open=")"),
        default=0.0,
        metavar="SHARE",
        help="hold out this share of the images, such as 0.2, for evaluation: their annotations go to DIR/val.json",
    )
    own.add_argument(
        "--seed", type=integer(0, MOST_SEED), default=0, help="chooses the images held out by --val (default: 0)"
    )
    own.add_argument(
        "--exif",
        choices=("ignore", "apply"),
        default="ignore",
        help="ignore: masks are of the pixels as stored, as in COCO (default); apply: they are of the image turned "
        "upright by its EXIF orientation",
    )
    own.add_argument(
        "--max_pixels",
        type=integer(1, MOST_PIXELS),
        default=MAX_PIXELS,
        metavar="N",
        help="skip images of more pixels, without decoding them (default: %(default)s)",
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
            help=f"writes records to DIR/train and DIR/val (default: {default})",
        )
        coco.set_defaults(year=year)

    shapes = commands.add_parser("shapes", parents=[common], help="draws the shapes dataset: COCO files and records")
    where = "writes images, annotations and records to DIR (default: datasets/shapes)"
    shapes.add_argument("--out", type=Path, default=Path("datasets/shapes"), metavar="DIR", help=where)
    shapes.add_argument(
        "--train", type=integer(1, IDS_OF_A_SPLIT), default=2000, help="training images (default: 2000)"
    )
    shapes.add_argument("--val", type=integer(1, IDS_OF_A_SPLIT), default=200, help="held-out images (default: 200)")
    shapes.add_argument(
        "--seed",
        type=integer(0, MOST_SEED),
        default=0,
        help="random seed; the same seed draws the same files (default: 0)",
    )
    return parser
