"""Pictures and uploads of the page, without a browser; proposals are bright squares on gray."""

import base64
import html
import io
import json
import os
import re
import tempfile

import numpy as np
import pytest
from PIL import Image

from fastmask_jax.apps.page import visitor_view
from fastmask_jax.apps.page.downloads import file_of
from fastmask_jax.apps.page.picture_cache import bound
from fastmask_jax.apps.page.uploads import read_upload
from fastmask_jax.apps.page.visitor_view import Sliders, View
from tests.bright_generator import COLORS, BrightGenerator, picture

H, W = 300, 400
SQUARES = {"red": (20, 30, 90), "green": (150, 60, 60), "blue": (300, 200, 50)}  # x, y, side; scores .9, .7, .5


@pytest.fixture
def view():
    found = BrightGenerator().propose(picture((H, W), **SQUARES))
    return View.of("squares", found, Sliders(0.0, 0.3, 100))


def center(name):
    """Returns (x, y) of a square's center in the page's picture."""
    x, y, side = SQUARES[name]
    return round((x + side / 2) * visitor_view.LONGEST / W), round((y + side / 2) * visitor_view.LONGEST / W)


def test_sliders_choose_without_losing(view):
    assert (len(view.shown), view.chosen) == (3, 0)
    fewer = view.with_sliders(Sliders(0.6, 0.3, 100))
    assert fewer.shown.scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(fewer.with_sliders(Sliders(0.0, 0.3, 1)).shown) == 1
    none = fewer.with_sliders(Sliders(0.95, 0.3, 100))
    assert (len(none.shown), none.chosen, none.closeup(), none.description()) == (0, None, None, None)
    assert none.picture().shape == (H * visitor_view.LONGEST // W, visitor_view.LONGEST, 3)
    assert none.summary() == "**0** of 3 proposals · image of 400 × 300 pixels"
    assert len(none.with_sliders(Sliders(0.0, 0.3, 100)).shown) == 3


@pytest.mark.parametrize(("number", "name"), [*enumerate(SQUARES)])
def test_a_click_finds_the_square_below_it(view, number, name):
    x, y, side = SQUARES[name]
    clicked = view.clicked(*center(name))
    assert clicked.chosen == number
    assert f"Proposal {number + 1}" in clicked.description()
    assert f"{side**2:,} pixels in a box of {side} × {side} at ({x}, {y})" in clicked.description()
    corner = clicked.clicked(0, 0)
    assert (corner.chosen, corner.closeup()) == (None, None)


def test_proposals_are_selected_by_their_rank(view):
    assert view.rows() == ["1 · 0.90 · 90 × 90", "2 · 0.70 · 60 × 60", "3 · 0.50 · 50 × 50"]
    assert [view.selected(k).chosen for k in (2, 0, 3, -1)] == [2, 0, 0, 0]


def test_outlines_are_those_of_the_masks_in_the_picture(view):
    held = re.fullmatch(r'<div data-proposals="(.*)"></div>', view.outlines())[1]
    outlines = json.loads(html.unescape(held))
    assert [says for _, says in outlines] == view.rows()
    for (path, _), (x, y, side) in zip(outlines, SQUARES.values(), strict=True):
        corners = np.array([point.split() for point in path.strip("MZ").split("L")], float)
        low, high = corners.min(0), corners.max(0)
        scale = visitor_view.LONGEST / W
        np.testing.assert_allclose([low, high], np.array([[x, y], [x + side, y + side]]) * scale, atol=1.5)


def test_files_for_download_are_in_memory(view, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for kind, name in (("download", "squares_proposals.json"), ("polygons", "squares_polygons.json")):
        file = file_of(view, kind)
        content = json.loads(base64.b64decode(file["base64"]))
        assert (file["name"], file["type"]) == (name, "application/json")
        entries = content if kind == "download" else content["annotations"]
        assert [entry["bbox"] for entry in entries] == [[x, y, side, side] for x, y, side in SQUARES.values()]
    labels = np.array(Image.open(io.BytesIO(base64.b64decode(file_of(view, "labels")["base64"]))))
    np.testing.assert_array_equal(labels, view.shown.label_map())
    assert not list(tmp_path.iterdir())


def test_the_oldest_pictures_go_when_there_are_too_many(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / name / "image.png"
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    bound(tmp_path, 300)
    assert len(list(tmp_path.rglob("*.png"))) == 3
    bound(tmp_path, 250)
    assert sorted(path.parent.name for path in tmp_path.rglob("*.png")) == ["middle", "new"]
    bound(tmp_path, 0)
    bound(tmp_path / "nowhere", 0)
    assert not list(tmp_path.rglob("*.png"))


def test_the_outline_in_the_window_is_seen(view):
    """The page shows a window at half the size of its picture, so lines need two pixels to be visible."""
    window, _ = view.closeup()
    row = window[len(window) // 2]  # it begins 10 of 60 pixels left of the square
    line = np.flatnonzero((row == visitor_view.distinct_colors(1)[0]).all(-1))
    assert len(line) == 2
    assert line.mean() == pytest.approx(len(row) / 6, abs=2)


def test_clicks_at_one_place_go_through_all_that_lie_there():
    image = picture((H, W), red=(100, 100, 80), green=(120, 120, 30))
    image[120:150, 120:150] = COLORS["green"]
    found = BrightGenerator().propose(image)
    whole = np.zeros((H, W), bool)
    whole[100:180, 100:180] = True
    found.rles[0] = encoded(whole)  # the red one with what covers it
    view, seen = View.of("squares", found, Sliders(0.0, 1.0, 100)), []
    for _ in range(3):
        view = view.clicked(round(135 * visitor_view.LONGEST / W), round(135 * visitor_view.LONGEST / W))
        seen.append(view.chosen)
    assert seen == [1, 0, 1]  # the first one is selected before


def encoded(mask):
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


@pytest.mark.parametrize("size", [(60, 80), (H, W), (2400, 3200)])
def test_pictures_of_images_of_any_size(size):
    side = min(size) // 4
    found = BrightGenerator().propose(picture(size, red=(side, side, side)))
    shown = View.of("squares", found, Sliders(0.0, 1.0, 10)).picture()
    assert max(shown.shape) == visitor_view.LONGEST
    assert shown.shape[0] / shown.shape[1] == pytest.approx(size[0] / size[1], abs=1 / visitor_view.LONGEST)
    scale = visitor_view.LONGEST / max(size)
    middle = shown[int(1.35 * side * scale), int(1.35 * side * scale)]  # off the center, where the score is drawn
    mixed = 0.55 * np.array(COLORS["red"]) + 0.45 * visitor_view.distinct_colors(1)[0]
    np.testing.assert_allclose(middle, mixed, atol=2)
    np.testing.assert_allclose(shown[-2, -2], 90, atol=1)


def test_the_picture_of_a_thin_image():
    found = BrightGenerator().propose(picture((8, 2000), red=(2, 2, 4)))
    shown = View.of("squares", found, Sliders(0.0, 1.0, 10)).picture()
    assert shown.shape == (4, visitor_view.LONGEST, 3)


def test_uploads_are_read_upright(tmp_path):
    pixels = picture((40, 60), red=(0, 0, 20))
    path = tmp_path / "turned.png"
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees
    image.save(path, exif=exif)
    np.testing.assert_array_equal(read_upload(path), np.rot90(pixels, -1))
    image.save(path)
    np.testing.assert_array_equal(read_upload(path), pixels)


def test_uploads_that_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:9000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"^half.jpg is damaged: its header is an image"):
        read_upload(tmp_path / "half.jpg")
    for name in ("text.png", "empty.png"):
        with pytest.raises(ValueError, match=f"^{name} is not an image"):
            read_upload(tmp_path / name)
    assert read_upload(tmp_path / "whole.jpg", most_pixels=40_000).shape == (200, 200, 3)
    with pytest.raises(ValueError, match=r"^whole.jpg is too large: 200 x 200 pixels, and 0.03 million are the most"):
        read_upload(tmp_path / "whole.jpg", most_pixels=30_000)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"^bomb.png is too large: 20000 x 20000 pixels, and 32 million are the most"):
        read_upload(tmp_path / "bomb.png")


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "EPS", "PDF", "PPM", "TGA"])
def test_only_listed_formats_are_opened(tmp_path, kind):
    """Regardless of the name: PostScript would start another program, and icons contain images of any size."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(picture((64, 64), red=(0, 0, 20))).save(path, kind)
    with pytest.raises(ValueError, match=r"^photo\.jpg is not an image, or its format is not supported"):
        read_upload(path)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_content_says_the_format_not_the_name(tmp_path, kind):
    pixels = picture((64, 64), red=(0, 0, 20))
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(read_upload(path), pixels)
