"""Reads and writes video files frame by frame with PyAV (an extra: requirements-video.txt). RGB, uint8."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from jaxtyping import UInt8

from fastmask_jax.errors import InvalidInput, MissingFile

ENCODER = "libx264"
_QUALITY = {"crf": "20", "preset": "veryfast"}  # sharp contours; encoding takes little time compared with the network
_TOLERATED = 2  # seconds by which a complete file may be shorter than its stated duration
_EVEN = 2  # yuv420p, which every player supports, halves the resolution of colors along both axes


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
      pixels: RGB, upright.
      time: timestamp, in units of the reader's `time_base`.
      aspect: width of a pixel divided by its height, on the screen.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    time: int
    aspect: Fraction = Fraction(1)


class VideoReader(AbstractContextManager):
    """Reads the frames of a file's main video stream, upright and in presentation order; ignores cover pictures.

    Attributes:
      rate: average frames per second.
      time_base: seconds per unit of the timestamps.
      length: number of frames by the file's header or duration; 0 if it has neither.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens the file; raises FileNotFoundError, or ValueError if PyAV cannot read it as a video."""
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingFile(f"{path}: no such video")
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise InvalidInput(f"{path}: not readable as a video: {_reason(error)}") from None
        pictures = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not pictures:
            covers = " but a cover picture" if self._container.streams.video else ""
            self._container.close()
            raise InvalidInput(f"{path}: the file has no video stream{covers}")
        best = self._container.streams.best("video")
        self._stream = best if best in pictures else pictures[0]
        self._stream.thread_type = "AUTO"
        # PyAV 19 has a rational type of its own, hence Fraction
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.time_base = Fraction(self._stream.time_base)
        self._aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        # Sound may be longer than the video stream, and an edit list may skip parts of the stream: use the shorter one.
        of_file, of_stream = Fraction(self._container.duration or 0, av.time_base), self._stream.duration
        self._seconds = min(of_file, of_stream * self.time_base) if of_stream else of_file
        self.length: int = self._stream.frames or round(self._seconds * self.rate)

    def __iter__(self) -> Iterator[Frame]:
        """Yields every frame once; all have the size of the first one.

        Raises:
          ValueError: the file is damaged from a frame on, which the message names; or it has no frames.
        """
        step = max(round(1 / (self.rate * self.time_base)), 1)
        first, last, frames, size = None, -step, 0, None
        try:
            for frame in self._container.decode(self._stream):
                size = size or (frame.width, frame.height)
                pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                rises = frame.pts is not None and frame.pts > last  # encoders require increasing timestamps
                last = frame.pts if rises else last + step
                first = last if first is None else first
                frames += 1
                upright, sideways = _turned(pixels, frame)
                yield Frame(upright, last, 1 / self._aspect if sideways else self._aspect)
        except (av.FFmpegError, OSError) as error:
            raise InvalidInput(f"{self.path}: damaged after {frames} frames: {_reason(error)}") from None
        if not frames:
            raise InvalidInput(f"{self.path}: the video has no frames")
        missing = self._seconds - (last + step - first) * self.time_base
        if missing > _TOLERATED:  # FFmpeg does not report truncated files
            raise InvalidInput(f"{self.path}: ends after {frames} frames, {float(missing):.0f} s too early: truncated?")

    def __exit__(self, *_: object) -> None:
        self._container.close()


class VideoWriter(AbstractContextManager):
    """Writes an H.264 mp4 file, atomically.

    The file is renamed to `path` when the `with` block ends. After an error, `<path>.part` holds the frames so far and
    is playable. Without frames, no file is written.
    """

    def __init__(self, path: str | Path, rate: Fraction, time_base: Fraction) -> None:
        """
        Args:
          path: path of the file; its folder is created.
          rate: frames per second.
          time_base: seconds per unit of the timestamps.
        """
        self.path = Path(path)
        self._part = self.path.with_name(self.path.name + ".part")
        self._rate, self._time_base = rate, time_base

    def __enter__(self) -> "VideoWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream(ENCODER, rate=self._rate, options=_QUALITY)
        context = self._stream.codec_context
        context.pix_fmt = "yuv420p"
        context.time_base = self._time_base
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return self

    def write(self, frame: Frame) -> None:
        """Appends a frame. Frames have one size and increasing timestamps; an odd side repeats its last pixels."""
        pixels = np.pad(frame.pixels, [(0, side % _EVEN) for side in frame.pixels.shape[:2]] + [(0, 0)], mode="edge")
        context = self._stream.codec_context
        if not context.is_open:
            context.height, context.width = pixels.shape[:2]
            context.sample_aspect_ratio = frame.aspect
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        picture.pts, picture.time_base = frame.time, self._time_base
        self._container.mux(self._stream.encode(picture))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun = self._stream.codec_context.is_open  # the file is then open, too
        if begun:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if begun and kind is None:
            self._part.replace(self.path)


def _turned(pixels: UInt8[np.ndarray, "_H _W 3"], frame: av.VideoFrame) -> tuple[UInt8[np.ndarray, "_h _w 3"], bool]:
    """Rotates and flips a frame by its display matrix; also returns whether height and width are swapped."""
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    sideways = False
    if matrix is not None:
        (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3).tolist()
        # (a, b) and (c, d): directions of the picture's x and y axes on the screen
        sideways = abs(b) > abs(a)
        if sideways:
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels), sideways


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
