"""What predict.py leaves of images: results as they come, pictures, and what is unreadable or interrupted."""

import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from fastmask_jax.apps.command_line import predict
from fastmask_jax.apps.predict.formats.table import open_formats
from fastmask_jax.apps.predict.image_results import predict_images
from fastmask_jax.apps.predict.input_files import find_files
from fastmask_jax.apps.predict.picture_files import PictureWriter, attention_sheet
from fastmask_jax.apps.predict.uninterrupted import uninterrupted
from fastmask_jax.configuration import run_command
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.ordered_map import ordered_map
from tests.bright_generator import COLORS, BrightGenerator, picture
from tests.tiny import ROOT

SIZE = (60, 80)


@pytest.fixture
def folder(tmp_path):
    """Images 1 … 12, in which a red square moves; 3 and 5 are broken."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(1, 13):
        image = picture(SIZE, red=(4 * n, 10, 20), blue=(2, 40, 10))
        cv2.imwrite(str(folder / f"{n:03}.png"), image[..., ::-1])
    for n in (3, 5):
        (folder / f"{n:03}.png").write_bytes(b"broken")
    return folder


def run(folder, out, generator=None, write=lambda name, proposals: None, formats=()):
    problems, ticks = [], []
    with open_formats(formats, out, 0.0) as write_formats:
        done = predict_images(
            generator or BrightGenerator(),
            find_files([str(folder)]).images,
            ProposeOptions(),
            out,
            write,
            problems.append,
            lambda: ticks.append(1),
            write_formats,
        )
    return done, problems, len(ticks)


def read(path):
    return json.loads(path.read_text())


def test_results_are_in_the_files_order_and_what_is_broken_is_named(folder, tmp_path):
    done, problems, ticks = run(folder, tmp_path / "out")
    assert done == (10, 20, 2, 0, False) and ticks == 12
    assert [name in line for name, line in zip(("003.png", "005.png"), problems, strict=True)] == [True, True]
    entries = read(tmp_path / "out" / "results.json")
    good = [n for n in range(1, 13) if n not in (3, 5)]
    assert [entry["image_id"] for entry in entries] == [n for n in good for _ in range(2)]
    for entry in entries[::2]:
        x = 4 * entry["image_id"]
        assert entry["bbox"] == [x, 10, 20, 20] and entry["score"] == 0.9
        assert coco_mask.decode(entry["segmentation"])[10:30, x : x + 20].all()
    listed = read(tmp_path / "out" / "images.json")
    assert listed[0] == {"id": 1, "file_name": str(folder / "001.png"), "height": 60, "width": 80}
    assert [image["id"] for image in listed] == good
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "images.json"}


def test_formats_have_all_images_that_can_be_read(folder, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 3
    with Image.open(folder / "001.png") as image:
        image.save(folder / "001.png", exif=turned)
    done, *_ = run(folder, tmp_path, formats=["coco", "labelme"])
    assert done.turned == 1
    content = read(tmp_path / "coco" / "annotations.json")
    names = [f"{n:03}" for n in range(1, 13) if n not in (3, 5)]
    assert [image["file_name"] for image in content["images"]] == [f"{name}.png" for name in names]
    assert [entry["image_id"] for entry in content["annotations"]] == [int(name) for name in names for _ in range(2)]
    assert content["annotations"][0]["segmentation"] == [[4, 10, 24, 10, 24, 30, 4, 30]]
    assert sorted(path.stem for path in (tmp_path / "labelme").iterdir()) == names


def test_pictures_of_each_kind(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out, write=PictureWriter(out, 10, overlays=True, attention=True, cutouts=True, npz=True).write)
    names = {f"{n:03}" for n in range(1, 13)} - {"003", "005"}
    for kind in ("overlays", "attention", "npz", "cutouts"):
        assert {path.stem for path in (out / kind).iterdir()} == names
    overlay = np.asarray(Image.open(out / "overlays" / "001.png"))
    original = picture(SIZE, red=(4, 10, 20), blue=(2, 40, 10))
    changed = (overlay != original).any(-1)
    assert changed[10:30, 4:24].mean() > 0.5 and not changed[:, 60:].any()
    attention = Image.open(out / "attention" / "001.png")
    assert attention.width > 2 * 2 * 160  # two proposals, each of them a pair
    cutout = np.asarray(Image.open(out / "cutouts" / "001" / "002.png"))  # the smaller one is the second
    assert cutout.shape == (10, 10, 4) and (cutout == (*COLORS["blue"], 255)).all()
    arrays = np.load(out / "npz" / "001.npz")
    assert arrays["attention"].shape == (2, 10, 10) and len(arrays["scores"]) == 2


def test_pictures_show_so_many_proposals_that_differ(tmp_path):
    (one,) = BrightGenerator().propose_iter([picture(SIZE, red=(4, 10, 20), blue=(40, 30, 22))])
    twice = one[[0, 0, 1]]
    assert len(np.unique(np.asarray(attention_sheet(one[:0])).reshape(-1, 3), axis=0)) > 1  # nothing to show is shown
    PictureWriter(tmp_path, 10, cutouts=True).write("two", twice)
    PictureWriter(tmp_path, 1, cutouts=True).write("deep/one", twice)
    assert len(list((tmp_path / "cutouts" / "two").iterdir())) == 2
    assert len(list((tmp_path / "cutouts" / "deep" / "one").iterdir())) == 1


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of 1 images could be read"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()


def test_an_error_of_a_picture_is_one(folder, tmp_path):
    def full(name, proposals):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run(folder, tmp_path / "out", write=full)


def test_ctrl_c_leaves_whole_files(folder, tmp_path):
    def interrupt(number):
        if number == 11:
            raise KeyboardInterrupt

    done, *_ = run(folder, tmp_path / "out", BrightGenerator(interrupt))
    assert done.interrupted and 0 < done.images < 10
    ids = [entry["image_id"] for entry in read(tmp_path / "out" / "results.json")]
    assert list(dict.fromkeys(ids)) == [image["id"] for image in read(tmp_path / "out" / "images.json")]
    assert len(set(ids)) == done.images


@pytest.fixture
def ctrl_c():
    """SIGINT interrupts, even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_uninterrupted_is_finished_before_ctrl_c_counts(ctrl_c):
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("inside")
        steps.append("behind")
    assert steps == ["inside"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_work_in_threads_comes_in_order_and_not_too_far_ahead():
    taken = []

    def numbers():
        for n in range(100):
            taken.append(n)
            yield n

    for n, square in enumerate(ordered_map(lambda n: n * n, numbers(), threads=3)):
        assert square == n * n and len(taken) <= n + 8
    assert taken == list(range(100))


def test_memory_does_not_grow_with_the_images(tmp_path):
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), picture((200, 300), red=(10, 10, 50)))
    (one,) = find_files([str(path)]).images

    def peak(count):
        tracemalloc.start()
        predict_images(BrightGenerator(), [one] * count, ProposeOptions(), tmp_path, lambda *_: None, print)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(60) < peak(30) + 2**20  # an image is 180 kB


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    """Its words, its exit codes, what it says."""
    monkeypatch.setattr("fastmask_jax.load", lambda *_, **__: _loaded(), raising=False)
    words = [str(folder), "--weights", "any", "--out", str(tmp_path / "out"), "--overlays", "--score_threshold", "0.1"]
    assert run_command(lambda: predict.main(words)) == 1
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out' / 'results.json'}: 20 proposals of 10 images; 2 unreadable\n"
    assert "003.png" in said.err and "weights from any" in said.err
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 10
    assert run_command(lambda: predict.main([str(folder / "001.png"), *words[1:]])) == 0
    assert read(tmp_path / "out" / "images.json") == [
        {"id": 1, "file_name": str(folder / "001.png"), "height": 60, "width": 80}
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--count", "0"], "count=0: expected an integer from 1"),
        (["--nms_iou", "2"], "nms_iou=2.0"),
        (["--shown", "0"], "--shown: 0: expected an integer from 1"),
        (["--batch_size", "0"], "batch_size=0: expected an integer from 1 to 256"),
        (["--overlay_all"], "unrecognized argument"),
        (["gone.jpg"], "gone.jpg: no such image or folder (1 of 2"),
        (["--weights", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_get_a_line(folder, tmp_path, capsys, more, says):
    where = ["--weights", "nowhere", "--out", str(tmp_path)]
    try:
        code = run_command(lambda: predict.main([str(folder), *more, *where]))
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert list(Path(tmp_path).iterdir()) == [folder]


def test_an_out_that_is_no_folder_is_noticed_before_the_work(folder, capsys):
    words = [str(folder), "--weights", "nowhere", "--out", str(folder / "001.png" / "below")]
    assert run_command(lambda: predict.main(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{folder / '001.png'} is not a writable folder" in said


@pytest.mark.parametrize("status", [0, 1, 130])
def test_after_ctrl_c_nothing_is_waited_for(status):
    code = (
        "import atexit, runpy, fastmask_jax.configuration as c\n"
        "atexit.register(print, 'waited')\n"
        f"c.run_command = lambda main: print('said') or {status}\n"
        "runpy.run_path('predict.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == status and done.stderr == ""
    assert done.stdout.split() == (["said"] if status == 130 else ["said", "waited"])


def _loaded():
    generator = BrightGenerator()
    generator.config = _Config()
    generator.loaded = _Report()
    return generator


class _Config:
    class evaluation:  # noqa: N801
        batch_size = 2


class _Report:
    def lines(self):
        return ["weights from any"]
