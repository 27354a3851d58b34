"""Writes the proposals of a video: a video with tracked objects in fixed colors, and results of every frame."""

from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from fastmask_jax.apps.predict.input_files import FoundFile
from fastmask_jax.apps.predict.picture_files import worth_showing
from fastmask_jax.apps.predict.uninterrupted import uninterrupted
from fastmask_jax.apps.video.frames import Frame, VideoReader, VideoWriter
from fastmask_jax.apps.video.tracks import Followed, Tracker
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.ordered_map import ordered_map
from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.masks.coco_results import JsonListWriter
from fastmask_jax.masks.drawing import PALETTE, distinct_colors, overlay

DRAWING_THREADS = 4


class PredictedVideo(NamedTuple):
    """Numbers of frames, proposals and objects that were written."""

    frames: int
    proposals: int
    objects: int  # number of tracks
    broken: str  # why the video could not be read to its end; "" if it could
    interrupted: bool


class _Shown(NamedTuple):
    time: int
    aspect: Fraction
    proposals: Proposals
    followed: Followed


def predict_video(
    generator: ProposalGenerator,
    file: FoundFile,
    options: ProposeOptions,
    folder: Path,
    shown: int,
    begin: Callable[[int], Callable[[], object]] = lambda frames: lambda: None,
) -> PredictedVideo:
    """Writes `folder`/NAME.mp4, with size and timestamps of the video, and `folder`/NAME.json.

    Each frame shows the top `shown` proposals after suppression at a mask IoU of 0.5; each object keeps its color
    (`video.tracks`). NAME.json holds these proposals as COCO results: image_id is the frame number, from 0, and
    track_id the object number, from 1. After Ctrl-C both files are valid and contain the work so far.

    Args:
      begin: called with the expected number of frames, 0 if unknown; returns a function that is called after each.

    Raises:
      FileNotFoundError, ValueError: no video, or PyAV cannot read it; one line.
    """
    times: deque[tuple[int, Fraction]] = deque()
    tracker = Tracker()
    broken, interrupted = "", False
    frames = objects = 0

    def pixels(video: VideoReader) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        nonlocal broken
        try:
            for frame in video:
                times.append((frame.time, frame.aspect))
                yield frame.pixels
        except ValueError as error:
            if not times and not frames:
                raise
            broken = str(error)

    def followed(video: VideoReader) -> Iterator[_Shown]:
        for proposals in generator.propose_iter(pixels(video), options):
            best = worth_showing(proposals, shown)
            yield _Shown(*times.popleft(), best, tracker.follow(best.rles))

    with VideoReader(file.path) as video:
        progress = begin(video.length)
        with (
            JsonListWriter(folder / f"{file.name}.json") as results,
            VideoWriter(folder / f"{file.name}.mp4", video.rate, video.time_base) as writer,
        ):
            try:
                for drawn, one in ordered_map(_drawn, followed(video), DRAWING_THREADS):
                    with uninterrupted():
                        writer.write(drawn)
                        for result, track in zip(one.proposals.to_results(frames), one.followed.tracks, strict=True):
                            results.append(result | {"track_id": int(track)})
                        frames += 1
                        objects = max(objects, int(one.followed.tracks.max(initial=0)))
                    progress()
            except KeyboardInterrupt:
                interrupted = True
    return PredictedVideo(frames, results.entries, objects, broken, interrupted)


def _drawn(one: _Shown) -> tuple[Frame, _Shown]:
    colors = distinct_colors(PALETTE)[one.followed.slots % PALETTE]
    labels = [f"{score:.2f}" for score in one.proposals.scores]
    pixels = overlay(one.proposals.image, one.proposals.rles, labels, colors)
    return Frame(pixels, one.time, one.aspect), one
