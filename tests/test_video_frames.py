"""Video files written and read back, and read by OpenCV."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

pytest.importorskip("av")
import av
from av.stream import Disposition

from fastmask_jax.apps.video.frames import Frame, VideoReader, VideoWriter

COLORS = np.array([(200, 40, 30), (20, 220, 60), (30, 60, 210), (240, 240, 20), (128, 128, 128)], np.uint8)
NTSC = Fraction(30000, 1001)


def frames(size, count=10, step=1001):
    """Yields frames whose quarters have different colors, which change from frame to frame."""
    for n in range(count):
        pixels = np.empty((*size, 3), np.uint8)
        for quarter in range(4):
            (top, left), (height, width) = divmod(quarter, 2), size
            y, x = height // 2 * top, width // 2 * left
            pixels[y:, x:] = COLORS[(quarter + n // 2) % len(COLORS)]
        yield Frame(pixels, n * step)


def written(path, size=(48, 64), **changed):
    given = list(frames(size, **changed))
    with VideoWriter(path, NTSC, Fraction(1, 30000)) as writer:
        for frame in given:
            writer.write(frame)
    return given


def middles(pixels):
    """Returns the color at the center of each quarter."""
    height, width = pixels.shape[:2]
    return np.array([[pixels[height * a // 4, width * b // 4] for b in (1, 3)] for a in (1, 3)], np.int64)


def opencv_frames(path):
    video = cv2.VideoCapture(str(path))
    while (read := video.read())[0]:
        yield read[1][..., ::-1]


@pytest.mark.parametrize("size", [(48, 64), (49, 65)], ids=str)
def test_what_is_written_is_read_again(tmp_path, size):
    path = tmp_path / "new" / "video.mp4"
    given = written(path, size)
    assert [p.name for p in path.parent.iterdir()] == ["video.mp4"]
    with VideoReader(path) as video:
        assert (video.rate, video.length) == (NTSC, len(given))
        read = list(video)
        times = [frame.time * video.time_base for frame in read]
    assert times == [Fraction(frame.time, 30000) for frame in given]
    even = tuple(side + side % 2 for side in size)
    for ours, theirs, frame in zip(read, opencv_frames(path), given, strict=True):
        assert ours.pixels.shape == theirs.shape == (*even, 3)
        np.testing.assert_allclose(middles(ours.pixels), middles(frame.pixels), atol=6)
        np.testing.assert_allclose(middles(theirs), middles(frame.pixels), atol=6)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(float(NTSC))


def test_uneven_times_stay_uneven(tmp_path):
    times = [0, 1000, 1500, 4000, 4200]
    with VideoWriter(tmp_path / "v.mp4", Fraction(25), Fraction(1, 1000)) as writer:
        for frame, time in zip(frames((32, 32), len(times)), times, strict=True):
            writer.write(frame._replace(time=time))
    with VideoReader(tmp_path / "v.mp4") as video:
        assert [round(frame.time * video.time_base * 1000) for frame in video] == times


def test_a_phone_held_upright_gives_upright_frames(tmp_path):
    """The file's matrix rotates the picture, as in players and OpenCV."""
    path = tmp_path / "v.mp4"
    written(path)
    content = path.read_bytes()
    one, plain = 0x10000, (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)

    def matrix(*numbers):
        return b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)

    track = content.index(matrix(*plain), content.index(b"tkhd"))
    for turn in ((0, one, 0, -one, 0, 0), (0, -one, 0, one, 0, 0), (-one, 0, 0, 0, -one, 0)):
        path.write_bytes(content[:track] + matrix(*turn, 0, 0, 0x40000000) + content[track + 36 :])
        with VideoReader(path) as video:
            ours = next(iter(video)).pixels
        theirs = next(opencv_frames(path))
        assert ours.shape == theirs.shape == ((48, 64, 3) if turn[0] else (64, 48, 3))
        np.testing.assert_allclose(middles(ours), middles(theirs), atol=4)


MATRICES = {  # a, b, c, d of x' = a x + c y, y' = b x + d y, and what that makes of the picture
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (-1, 0, 0, -1): lambda p: p[::-1, ::-1],
    (0, 1, 1, 0): lambda p: p.swapaxes(0, 1),
    (0, -1, -1, 0): lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, 1, 0): lambda p: np.rot90(p),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_mirrored_and_turned_pictures_of_pixels_that_are_not_square(tmp_path, matrix):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        a, b, c, d = (number << 16 for number in matrix)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        given = next(frames((48, 64))).pixels
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(given, format="rgb24")))
        container.mux(stream.encode(None))
    with VideoReader(path) as video:
        read = list(video)
    expected = MATRICES[matrix](given)
    assert len(read) == 3 and read[0].pixels.shape == expected.shape
    np.testing.assert_allclose(middles(read[0].pixels), middles(expected), atol=12)
    assert read[0].aspect == (Fraction(4, 3) if matrix[0] else Fraction(3, 4))
    with VideoWriter(tmp_path / "again.mp4", video.rate, video.time_base) as writer:
        writer.write(read[0])
    with VideoReader(tmp_path / "again.mp4") as again:
        assert next(iter(again)).aspect == read[0].aspect


@pytest.mark.parametrize("first", [True, False])
def test_a_cover_picture_is_no_video(tmp_path, first):
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        streams = {}
        for kind in ("mjpeg", "libx264") if first else ("libx264", "mjpeg"):
            streams[kind] = container.add_stream(kind, rate=25)
            streams[kind].width, streams[kind].height = 64, 48
            streams[kind].pix_fmt = "yuvj420p" if kind == "mjpeg" else "yuv420p"
        streams["mjpeg"].disposition = Disposition.attached_pic
        for kind, count in (("mjpeg", 1), ("libx264", 5)):
            for frame in frames((48, 64), count):
                container.mux(streams[kind].encode(av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")))
            container.mux(streams[kind].encode(None))
    with VideoReader(tmp_path / "v.mp4") as video:
        assert len(list(video)) == 5


def test_a_video_that_is_cut_off_gives_the_frames_that_it_has(tmp_path):
    """An mp4 file with its index at the beginning, as written here, can be read up to the cut."""
    path = tmp_path / "v.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), np.uint8)
    with VideoWriter(path, Fraction(5), Fraction(1, 5)) as writer:
        for n, pixels in enumerate(noise):
            writer.write(Frame(pixels, n))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    seen = []
    with VideoReader(path) as video, pytest.raises(ValueError, match=r"v\.mp4: .* after \d+ frames") as caught:
        seen.extend(video)
    assert 0 < len(seen) < 40
    assert f"after {len(seen)} frames" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)], ids=["empty", "text", "zeros"])
def test_no_video_gets_a_line(tmp_path, content):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"v\.mp4: not readable as a video: ") as caught:
        VideoReader(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such video"):
        VideoReader(tmp_path / "nowhere.mp4")


def test_after_an_error_the_part_plays(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "v.mp4", Fraction(25), Fraction(1, 25)) as writer:
        for n, frame in enumerate(frames((32, 32), 5)):
            writer.write(frame._replace(time=n))
        raise RuntimeError
    (part,) = tmp_path.iterdir()
    assert part.name == "v.mp4.part"
    with VideoReader(part) as video:
        assert len(list(video)) == 5


def test_a_video_without_a_frame_is_not_written(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", Fraction(25), Fraction(1, 25)):
        pass
    assert not list(tmp_path.iterdir())
