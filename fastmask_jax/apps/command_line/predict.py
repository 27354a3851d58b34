"""fastmask predict: proposes objects in images and videos."""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastmask_jax.apps.command_line.interrupts import INTERRUPTED
from fastmask_jax.apps.command_line.number_flags import integer, number
from fastmask_jax.apps.command_line.proposal_options import (
    add_network_options,
    add_proposal_options,
    proposal_options,
)
from fastmask_jax.apps.predict.formats.table import FORMATS, open_formats
from fastmask_jax.apps.predict.input_files import FoundFile, find_files
from fastmask_jax.config_schema import MOST_PROPOSALS
from fastmask_jax.configuration import parse_command_line
from fastmask_jax.errors import InvalidInput
from fastmask_jax.full_disk import AGAIN, naming_full_disk
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.masks.polygons import TOLERANCE

_PICTURES = {
    "overlays": "overlays/NAME.png: the top proposals after suppression, drawn on the image",
    "attention": "attention/NAME.png: the window of each of these, with its attention",
    "cutouts": "cutouts/NAME/RANK.png: each of these alone on a transparent background",
    "npz": "npz/NAME.npz: all proposals with their attention, as NumPy arrays",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 if something was unreadable, 130 after Ctrl-C, otherwise 0."""
    words, overrides = parse_command_line(_parser(), arguments)
    options = proposal_options(words)
    _check_packages(words.formats)
    found = find_files(words.inputs)
    if found.passed_over:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.passed_over.most_common())
        _say(f"skipped, neither images nor videos: {kinds}")
    if found.videos:
        _check_extras(found.videos)
    _check_out(words.out)

    import fastmask_jax  # imports JAX on first use, after the fast checks

    generator = fastmask_jax.load(words.weights, config=words.config, overrides=overrides, report=_say)
    _say("\n".join(generator.loaded.lines()))
    options = options.changed(batch_size=words.batch_size or generator.config.evaluation.batch_size)
    with naming_full_disk(words.out, AGAIN):
        code = _predict_images(generator, found.images, options, words) if found.images else 0
        for video in found.videos:
            if code != INTERRUPTED:
                code = max(code, _predict_video(generator, video, options, words))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmask predict",
        description="Writes object proposals of images to DIR/results.json in COCO results format. image_id is the "
        "number at the end of the file name, or the position of the file, from 1, if the names have no distinct "
        "numbers; DIR/images.json lists the ids. For videos, DIR/videos/NAME.mp4 shows the top proposals and NAME.json "
        "holds them.",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edges=1300",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="an image, a video, a folder (with subfolders), a pattern such as 'photos/**/*.jpg', or @LIST, a file "
        "with one of these per line",
    )
    add_network_options(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("proposals"), metavar="DIR", help="output folder (default: proposals)"
    )

    add_proposal_options(parser)

    pictures = parser.add_argument_group("additional outputs, below DIR")
    for name, text in _PICTURES.items():
        pictures.add_argument(f"--{name}", action="store_true", help=text)
    pictures.add_argument(
        "--shown",
        type=integer(1, MOST_PROPOSALS),
        default=10,
        metavar="N",
        help="proposals in pictures and videos, after suppression at mask IoU 0.5 (default: 10)",
    )
    formats = parser.add_argument_group("files for other tools", "Files of a format are below DIR/FORMAT.")
    formats.add_argument(
        "--format",
        action="append",
        default=[],
        choices=tuple(FORMATS),
        dest="formats",
        help="may be repeated. " + "; ".join(f"{name}: {one.writes}" for name, one in FORMATS.items()),
    )
    formats.add_argument(
        "--tolerance",
        type=number(0, 1e6),
        default=TOLERANCE,
        metavar="PIXELS",
        help="maximum distance of polygons from the outline of the mask; 0: exact (default: %(default)g)",
    )
    return parser


def _predict_images(generator: Any, files: list[FoundFile], options: ProposeOptions, words: argparse.Namespace) -> int:
    from fastmask_jax.apps.predict.image_results import predict_images
    from fastmask_jax.apps.predict.picture_files import PictureWriter

    pictures = PictureWriter(words.out, words.shown, **{name: getattr(words, name) for name in _PICTURES})
    with (
        tqdm(total=len(files), unit="image", disable=None) as bar,
        open_formats(words.formats, words.out, words.tolerance) as write,
    ):
        done = predict_images(generator, files, options, words.out, pictures.write, _say, bar.update, write)
    results = words.out / "results.json"
    print(f"{results}: {done.proposals} proposals of {done.images} images; {done.unreadable} unreadable")
    if done.turned and (options.exif or generator.config.evaluation.exif) == "apply":
        _say(f"turned upright by their EXIF orientation: {done.turned} images")
    elif done.turned:
        _say(f"EXIF orientation ignored: {done.turned} images (--exif apply turns them upright)")
    if done.interrupted:
        _say(f"interrupted: {len(files) - done.images - done.unreadable} images were not processed")
        return INTERRUPTED
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
            _say(f"skipped: {error}")
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
        _say("interrupted: the rest of the video was not processed")
        return INTERRUPTED
    return 1 if done.broken else 0


def _check_packages(formats: Sequence[str]) -> None:
    for name in formats:
        missing = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
        if missing:
            raise InvalidInput(
                f"--format {name} needs {' and '.join(missing)}: pip install 'fastmask_jax[large]', or in a checkout "
                "pip install -r requirements-large.txt"
            )


def _check_extras(videos: list[FoundFile]) -> None:
    missing = [name for name in ("av", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"{videos[0].path}: videos need {' and '.join(missing)}: pip install -r requirements-video.txt"
        )


def _check_out(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InvalidInput(f"--out {folder}: {there} is not a writable folder; choose another")


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
