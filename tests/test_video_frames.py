"""Video files written and read again, and as OpenCV reads them."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

pytest.importorskip("av")
from fastmask_jax.apps.video.frames import Frame, VideoReader, VideoWriter

COLORS = np.array([(200, 40, 30), (20, 220, 60), (30, 60, 210), (240, 240, 20), (128, 128, 128)], np.uint8)
NTSC = Fraction(30000, 1001)


def frames(size, count=10, step=1001):
    """Quarters of the picture in different colors, which change from frame to frame."""
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
    """The color in the middle of each quarter."""
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
    """The file's matrix turns the picture, as players and OpenCV do it."""
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


def test_a_video_that_is_cut_off_gives_the_frames_that_it_has(tmp_path):
    """An mp4 file with its index in front, as written here, plays up to the cut."""
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
