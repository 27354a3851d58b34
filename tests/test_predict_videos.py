"""Output of predict.py for videos: the video with objects in stable colors, and their results."""

import json
from fractions import Fraction

import numpy as np
import pytest
from pycocotools import mask as coco_mask

pytest.importorskip("av")
pytest.importorskip("scipy")
from fastmask_jax.apps.command_line import predict
from fastmask_jax.apps.predict.input_files import FoundFile, find_files
from fastmask_jax.apps.predict.video_results import predict_video
from fastmask_jax.apps.video.frames import Frame, VideoReader, VideoWriter
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.masks.drawing import distinct_colors
from tests.bright_generator import BrightGenerator, picture

SIZE = (192, 320)
RATE = Fraction(30000, 1001)
FRAMES = 20


def squares(n):
    """Draws a frame: red moves to the right; blue, below it, grows and is larger from frame 6 on."""
    return {"red": (4 + 4 * n, 4, 60), "blue": (60, 80, 50 + 2 * n if n != 12 else 1)}


@pytest.fixture
def film(tmp_path):
    """A video in which blue is hidden in frame 12."""
    path = tmp_path / "film.mp4"
    with VideoWriter(path, RATE, Fraction(1, 30000)) as writer:
        for n in range(FRAMES):
            writer.write(Frame(picture(SIZE, **squares(n)), 1001 * n))
    return path


def run(path, out, generator=None, shown=10, begin=lambda frames: lambda: None):
    return predict_video(
        generator or BrightGenerator(), FoundFile(path, path.stem), ProposeOptions(), out, shown, begin
    )


def results(out):
    return json.loads((out / "film.json").read_text())


def test_objects_keep_number_and_color(film, tmp_path):
    ticks = []
    done = run(film, tmp_path / "out", begin=lambda frames: lambda: ticks.append(frames))
    assert done[:1] + done[2:] == (FRAMES, 2, "", False) and ticks == [FRAMES] * FRAMES
    entries = results(tmp_path / "out")
    assert len(entries) == done.proposals and {entry["image_id"] for entry in entries} == set(range(FRAMES))
    for entry in entries:
        x, y, side = squares(entry["image_id"])["red" if entry["track_id"] == 1 else "blue"]
        mask = coco_mask.decode(entry["segmentation"])
        assert mask.shape == SIZE and mask[y + 2 : y + side - 2, x + 2 : min(x + side, SIZE[1]) - 2].all()
    ranks = {n: [entry["track_id"] for entry in entries if entry["image_id"] == n] for n in range(FRAMES)}
    assert ranks[0] == [1, 2] and ranks[11] == [2, 1] and ranks[12] == [1] and ranks[13] == [2, 1]

    with VideoReader(film) as before, VideoReader(tmp_path / "out" / "film.mp4") as after:
        assert after.rate == before.rate == RATE and after.length == FRAMES
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"film.mp4", "film.json"}
        for n, (old, new) in enumerate(zip(before, after, strict=True)):
            assert old.pixels.shape == new.pixels.shape
            assert old.time * before.time_base == new.time * after.time_base
            for name, color in zip(("red", "blue"), distinct_colors(2), strict=True):
                x, y, side = squares(n)[name]
                if side > 1:  # the label and the contour are of the track's color, the rest is half of it
                    inside = slice(y + 3, y + side - 3), slice(x + 3, x + side - 3)
                    filled = 0.55 * old.pixels[inside] + 0.45 * color
                    near = [np.abs(new.pixels[inside] - wanted).max(-1) < 40 for wanted in (filled, color.astype(int))]
                    assert (near[0] | near[1]).mean() > 0.6
            ground = new.pixels[175:, 2:50]
            assert np.abs(ground.astype(int) - 90).max() < 10


def test_so_many_are_shown(film, tmp_path):
    run(film, tmp_path, shown=1)
    assert [entry["image_id"] for entry in results(tmp_path)] == list(range(FRAMES))


def test_ctrl_c_leaves_whole_files(film, tmp_path):
    def interrupt(number):
        if number == 15:
            raise KeyboardInterrupt

    done = run(film, tmp_path / "out", BrightGenerator(interrupt))
    assert done.interrupted and 0 < done.frames < 15
    assert {entry["image_id"] for entry in results(tmp_path / "out")} == set(range(done.frames))
    with VideoReader(tmp_path / "out" / "film.mp4") as video:
        assert len(list(video)) == done.frames


def test_a_video_that_is_cut_off_is_done_as_far_as_it_goes(tmp_path):
    path = tmp_path / "film.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (30, *SIZE, 3), np.uint8)
    with VideoWriter(path, Fraction(5), Fraction(1, 5)) as writer:
        for n, pixels in enumerate(noise):
            writer.write(Frame(pixels, n))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = run(path, tmp_path / "out")
    assert 0 < done.frames < 30 and f"after {done.frames} frames" in done.broken
    assert (tmp_path / "out" / "film.mp4").exists() and results(tmp_path / "out")


def test_the_command_goes_on_after_a_broken_video(film, tmp_path, monkeypatch, capsys):
    (tmp_path / "a_broken.mp4").write_bytes(b"no video")
    generator = BrightGenerator()
    options = predict._parser().parse_args([str(tmp_path), "--weights", "any", "--out", str(tmp_path / "out")])
    codes = [
        predict._predict_video(generator, video, ProposeOptions(), options)
        for video in find_files([str(tmp_path)]).videos
    ]
    assert codes == [1, 0]
    said = capsys.readouterr()
    assert "a_broken.mp4: not readable as a video" in said.err
    assert f"proposals of 2 objects in {FRAMES} frames, " in said.out and "frames/s" in said.out
    assert {path.name for path in (tmp_path / "out" / "videos").iterdir()} == {"film.mp4", "film.json"}


def test_what_videos_need_is_named(film, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"film\.mp4: videos need av and scipy: pip install -r requirements-video.txt"):
        predict.main([str(film), "--weights", "any"])
