"""fastmask predict: proposals of images and videos."""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastmask_jax.apps.predict.input_files import FoundFile, find_files
from fastmask_jax.configuration import parse_command_line
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.options import ProposeOptions

_PICTURES = {
    "overlays": "overlays/NAME.png: the best proposals that differ, drawn on the image",
    "attention": "attention/NAME.png: of each of these its window, beside where the network looks in it",
    "cutouts": "cutouts/NAME/RANK.png: each of these alone on transparent ground",
    "npz": "npz/NAME.npz: all proposals with their attention, as NumPy arrays",
}
_INTERRUPTED = 130  # exit status after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where something was unreadable, 130 after Ctrl-C, else 0."""
    parser = _parser()
    words, overrides = parse_command_line(parser, arguments)
    names = "count", "score_threshold", "nms_iou", "min_area", "mask_threshold", "rerank_iou", "long_edges", "flip"
    options = ProposeOptions(**{name: getattr(words, name) for name in names})
    for name in ("shown", "batch_size"):
        if getattr(words, name) is not None and getattr(words, name) < 1:
            parser.error(f"--{name} {getattr(words, name)}: at least 1")
    found = find_files(words.inputs)
    if found.passed_over:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.passed_over.most_common())
        _say(f"passed over, neither images nor videos: {kinds}")
    if found.videos:
        _check_extras(found.videos)
    _check_out(words.out)

    import fastmask_jax  # JAX starts with its first name: mistakes above are answered at once

    generator = fastmask_jax.load(words.weights, config=words.config, overrides=overrides, report=_say)
    _say("\n".join(generator.loaded.lines()))
    options = options.changed(batch_size=words.batch_size or generator.config.evaluation.batch_size)
    code = _predict_images(generator, found.images, options, words) if found.images else 0
    for video in found.videos:
        if code != _INTERRUPTED:
            code = max(code, _predict_video(generator, video, options, words))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmask predict",
        description="Writes object proposals of images to DIR/results.json in COCO results form; image_id is the "
        "number that a file's name ends with or, where the names have no distinct ones, the file's place (from 1), and "
        "DIR/images.json says which is which. Of videos, DIR/videos/NAME.mp4 shows the best proposals, NAME.json holds "
        "them.",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edges=1300",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="an image, a video, a folder (and all below it), a pattern such as 'photos/**/*.jpg', or @LIST, a file "
        "with one of these on each line",
    )
    parser.add_argument("--weights", required=True, metavar="SPEC", help="trained network: see docs/weights.md")
    parser.add_argument(
        "--config",
        help="config file, with a variant after a colon (default: that of a network of this project's own, "
        "configs/coco.py for others)",
    )
    parser.add_argument("--out", type=Path, default=Path("proposals"), metavar="DIR", help="(default: proposals)")

    chosen = parser.add_argument_group("proposals")
    chosen.add_argument(
        "--max_proposals",
        "--count",
        dest="count",
        type=int,
        default=100,
        metavar="N",
        help="of an image (default: 100)",
    )
    chosen.add_argument("--score_threshold", type=float, default=0.0, metavar="S", help="least objectness, 0 to 1")
    chosen.add_argument(
        "--nms_iou",
        type=float,
        default=1.0,
        metavar="IOU",
        help="greatest mask IoU with a better one (default: 1, any)",
    )
    chosen.add_argument("--min_area", type=float, default=0.0, metavar="PIXELS", help="of the mask, in the image")
    chosen.add_argument("--mask_threshold", type=float, metavar="P", help="of a mask's pixels (default: the config's)")
    chosen.add_argument(
        "--rerank_iou",
        type=float,
        metavar="IOU",
        help="rank proposals of greater mask IoU with a better one after all others (default: the config's; 1: none)",
    )
    chosen.add_argument(
        "--long_edges",
        type=_whole_numbers,
        metavar="PIXELS[,PIXELS]",
        help="the image is resized to this (default: the config's); larger finds smaller objects; proposals of several "
        "scales are merged",
    )
    chosen.add_argument("--flip", action="store_true", help="propose in the mirror image, too: twice the time")
    chosen.add_argument(
        "--batch_size", type=int, metavar="N", help="images of a device at a time (default: the config's)"
    )

    pictures = parser.add_argument_group("written besides, below DIR")
    for name, text in _PICTURES.items():
        pictures.add_argument(f"--{name}", action="store_true", help=text)
    pictures.add_argument(
        "--shown",
        type=int,
        default=10,
        metavar="N",
        help="proposals in pictures and videos, no two of mask IoU above 0.5 (default: 10)",
    )
    return parser


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _predict_images(generator: Any, files: list[FoundFile], options: ProposeOptions, words: argparse.Namespace) -> int:
    from fastmask_jax.apps.predict.image_results import predict_images
    from fastmask_jax.apps.predict.picture_files import PictureWriter

    pictures = PictureWriter(words.out, words.shown, **{name: getattr(words, name) for name in _PICTURES})
    with tqdm(total=len(files), unit="image", disable=None) as bar:
        done = predict_images(generator, files, options, words.out, pictures.write, _say, bar.update)
    results = words.out / "results.json"
    print(f"{results}: {done.proposals} proposals of {done.images} images; {done.unreadable} unreadable")
    if done.interrupted:
        _say(f"interrupted: {len(files) - done.images - done.unreadable} images are left")
        return _INTERRUPTED
    return 1 if done.unreadable else 0


def _predict_video(generator: Any, file: FoundFile, options: ProposeOptions, words: argparse.Namespace) -> int:
    from fastmask_jax.apps.predict.video_results import predict_video

    with tqdm(unit="frame", desc=file.path.name, disable=None) as bar:

        def begin(frames: int) -> Callable[[], object]:
            bar.reset(frames or None)
            return bar.update

        start = time.perf_counter()
        try:
            done = predict_video(generator, file, options, words.out / "videos", words.shown, begin)
        except ValueError as error:
            _say(f"left out: {error}")
            return 1
        seconds = time.perf_counter() - start
    path = words.out / "videos" / f"{file.name}.mp4"
    print(
        f"{path} and .json: {done.proposals} proposals of {done.objects} objects in {done.frames} frames, "
        f"{done.frames / seconds:.1f} frames/s"
    )
    if done.broken:
        _say(done.broken)
    if done.interrupted:
        _say("interrupted: the rest of the video is left")
        return _INTERRUPTED
    return 1 if done.broken else 0


def _check_extras(videos: list[FoundFile]) -> None:
    missing = [name for name in ("av", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"{videos[0].path}: videos need {' and '.join(missing)}: pip install -r requirements-video.txt"
        )


def _check_out(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InvalidInput(f"--out {folder}: {there} is not a folder that can be written to; name another")


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
