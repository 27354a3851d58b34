"""Command-line options for the network and its proposals, shared by all commands that propose."""

import argparse

from fastmask_jax.apps.command_line.number_flags import integer, number
from fastmask_jax.config_schema import MOST_LONG_EDGE
from fastmask_jax.geometry import MULTIPLE
from fastmask_jax.inference.options import ProposeOptions

_OPTIONS = (
    "count",
    "score_threshold",
    "nms_iou",
    "min_area",
    "min_part",
    "fill_holes",
    "mask_threshold",
    "extra_thresholds",
    "stability_weight",
    "rerank_iou",
    "long_edges",
    "flip",
    "tile",
    "tile_overlap",
    "exif",
    "max_pixels",
)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Adds --weights and --config."""
    parser.add_argument(
        "--weights",
        default="coco_few",
        metavar="SPEC",
        help="trained network: see docs/weights.md (default: coco_few, the bundled network for photographs)",
    )
    parser.add_argument(
        "--config",
        help="config file, with a variant after a colon (default: that of a network of this project's own, "
        "configs/coco.py for others)",
    )


def add_proposal_options(parser: argparse.ArgumentParser) -> None:
    """Adds a group with the options of `ProposeOptions`."""
    chosen = parser.add_argument_group("proposals", "Defaults are the config's unless stated otherwise.")
    chosen.add_argument(
        "--max_proposals",
        "--count",
        dest="count",
        type=int,
        default=100,
        metavar="N",
        help="maximum number of proposals per image (default: 100)",
    )
    chosen.add_argument(
        "--score_threshold", type=float, default=0.0, metavar="S", help="minimum score, 0 to 1 (default: 0)"
    )
    chosen.add_argument(
        "--nms_iou",
        type=float,
        default=1.0,
        metavar="IOU",
        help="remove proposals whose mask IoU with a better one is greater (default: 1, none)",
    )
    chosen.add_argument("--min_area", type=float, default=0.0, metavar="PIXELS", help="minimum mask area (default: 0)")
    chosen.add_argument(
        "--min_part",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="remove connected parts of a mask below this size; below 1: a fraction of its pixels",
    )
    chosen.add_argument(
        "--fill_holes",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="fill holes of a mask up to this size; below 1: a fraction of its pixels",
    )
    chosen.add_argument("--mask_threshold", type=float, metavar="P", help="minimum probability for a mask pixel")
    chosen.add_argument(
        "--extra_thresholds",
        type=_probabilities,
        metavar="P[,P]",
        help="also propose the mask of each window at these thresholds, with lower scores (default: the config's; '': "
        "none)",
    )
    chosen.add_argument(
        "--stability_weight",
        type=float,
        metavar="W",
        help="rank sharp masks first (default: the config's; 0: rank by objectness alone)",
    )
    chosen.add_argument(
        "--rerank_iou",
        type=float,
        metavar="IOU",
        help="lower the scores of proposals whose mask has a greater IoU with a better one (1: off)",
    )
    chosen.add_argument(
        "--long_edges",
        type=_long_edges,
        metavar="PIXELS[,PIXELS]",
        help="test scales: long edge of the resized image; larger finds smaller objects; proposals of several scales "
        "are merged",
    )
    chosen.add_argument("--flip", action="store_true", help="also propose on the mirrored image; takes twice the time")
    chosen.add_argument(
        "--tile",
        metavar="PIXELS",
        help="also propose on tiles of this side, to find small objects in large images; 'auto': the test scale, for "
        "images of more than twice that; 'off': no tiles (default: the config's)",
    )
    chosen.add_argument(
        "--tile_overlap",
        type=float,
        metavar="PIXELS",
        help="minimum overlap of neighboring tiles; below 1: a fraction of the tile (default: the config's)",
    )
    chosen.add_argument(
        "--exif",
        choices=("ignore", "apply"),
        help="an image's EXIF orientation: ignore: pixels as stored, as in COCO; apply: turned upright "
        "(default: the config's)",
    )
    chosen.add_argument(
        "--max_pixels", type=int, metavar="N", help="refuse images of more pixels, without decoding them"
    )
    chosen.add_argument("--batch_size", type=int, metavar="N", help="images per device and batch")


def proposal_options(words: argparse.Namespace) -> ProposeOptions:
    """Returns the options that were given; raises ValueError if one is out of range."""
    batch = {} if words.batch_size is None else {"batch_size": words.batch_size}
    return ProposeOptions(**{name: getattr(words, name) for name in _OPTIONS}, **batch)


def _long_edges(text: str) -> tuple[int, ...]:
    return tuple(integer(MULTIPLE, MOST_LONG_EDGE)(part) for part in text.split(","))


def _probabilities(text: str) -> tuple[float, ...]:
    return tuple(number(0, 1, open="()")(part) for part in text.split(",") if text)
