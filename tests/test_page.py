"""The page of demo.py in a real browser: files, sliders, clicks, keys, the pointer, downloads, refusals."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.bright_generator import COLORS, picture
from tests.browser_page import SQUARES, H, W, at, needs_chromium, opened, says, shown, upload

pytestmark = needs_chromium

INFERNO_HALF = np.array([0.735683, 0.215906, 0.330245]) * 255  # matplotlib's inferno at 0.5, the attention everywhere


def test_upload_sliders_click_and_download(served, photo):
    with opened(served.address) as (page, problems):
        assert page.is_disabled("#download")
        before = len(served.seen)
        upload(page, photo)
        says(page, "status", "3 of 3 proposals")
        says(page, "description", "Proposal 1 · objectness 0.900")
        first, pixels = shown(page, "overview")
        assert pixels.shape[0] / pixels.shape[1] == pytest.approx(H / W, rel=0.01)
        assert all(picture_.get_attribute("alt") for picture_ in page.locator("img").all())

        page.fill("#score input[type=number]", "0.6")
        says(page, "status", "2 of 3 proposals")
        second, _ = shown(page, "overview")
        page.focus("#count input[type=range]")
        for _ in range(5):
            page.keyboard.press("ArrowLeft")  # from 6 on
        says(page, "status", "1 of 3 proposals")
        assert len({first, second, shown(page, "overview")[0]}) == 3
        page.fill("#score input[type=number]", "0")
        page.fill("#count input[type=number]", "6")
        says(page, "status", "3 of 3 proposals")
        assert len(served.seen) == before + 1, "sliders ran the network again"

        x, y, side = SQUARES["green"]
        page.mouse.click(*at(page, x + side // 2, y + side // 2))
        says(page, "description", "Proposal 2 · objectness 0.700")
        says(page, "description", f"at ({x}, {y})")
        window, attention = (shown(page, name)[1] for name in ("window", "attention"))
        scale = len(window) / 60  # the window begins 10 pixels left of the object and above, and has 60
        inside = round(30 * scale)
        np.testing.assert_allclose(window[inside, inside], COLORS["green"], atol=2)
        gray = np.dot(COLORS["green"], [0.299, 0.587, 0.114])  # attention is drawn on the gray image
        expected = 0.4 * gray + 0.6 * INFERNO_HALF
        np.testing.assert_allclose(attention[inside, inside], expected, atol=3)
        page.mouse.click(*at(page, 395, 5))
        says(page, "description", "Nothing is proposed where you clicked")

        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "squares_42_proposals.json"
        check_results(download.value.path())
        with page.expect_download() as download:
            page.click("#polygons")
        polygons = json.loads(download.value.path().read_text())
        assert [entry["area"] for entry in polygons["annotations"]] == [side**2 for _, _, side in SQUARES.values()]
        with page.expect_download() as download:
            page.click("#labels")
        assert download.value.suggested_filename == "squares_42_labels.png"
        labels = np.array(Image.open(download.value.path()))
        for label, (x, y, side) in enumerate(SQUARES.values(), 1):
            assert labels[y + side // 2, x + side // 2] == label and (labels == label).sum() == side**2

        page.click("#upload button[aria-label='Remove Image']")
        says(page, "status", "Drop an image")
        assert page.is_disabled("#download") and not page.locator("#overview img").count()
        assert not problems


def check_results(path):
    """Checks that pycocotools reads the file and that its masks are the squares."""
    ground = COCO()
    ground.dataset = {"images": [{"id": 42, "height": H, "width": W}], "categories": [{"id": 1}], "annotations": []}
    ground.createIndex()
    entries = sorted(ground.loadRes(str(path)).anns.values(), key=lambda entry: -entry["score"])
    assert [entry["score"] for entry in entries] == pytest.approx([0.9, 0.7, 0.5])
    for entry, (x, y, side) in zip(entries, SQUARES.values(), strict=True):
        square = np.zeros((H, W), np.uint8)
        square[y : y + side, x : x + side] = 1
        np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), square)
        assert entry["bbox"] == [x, y, side, side]


def test_what_is_no_image_or_too_large_is_refused(served, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:600])
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("1", (8000, 5000)).save(tmp_path / "large.png")
    with opened(served.address) as (page, problems):
        for name, line in (("broken.png", "is damaged"), ("text.jpg", "is not an image"), ("large.png", "8000 x 5000")):
            upload(page, tmp_path / name)
            says(page, "status", line)
            toast = page.locator(".toast-body", has_text=line)
            assert f"{name} is" in toast.inner_text() and str(tmp_path) not in toast.inner_text()
            toast.locator(".toast-close").click()
            assert page.locator("#upload input[type=file]").count() == 1 and page.is_disabled("#download")
        upload(page, photo)
        says(page, "status", "3 of 3 proposals")
        assert not problems


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desk", "phone"])
def test_where_things_lie(served, photo, size):
    """Labels are above the pictures; on a phone, everything is in one column, with the picture before its sliders."""
    with opened(served.address) as (page, problems):
        page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        upload(page, photo)
        says(page, "description", "Proposal 1")
        order = ("#upload", "#overview", "#description", "#score", "#window")
        boxes = {name: page.locator(name).bounding_box() for name in order}
        for name in ("#overview", "#window", "#attention"):
            label, picture_ = (page.locator(f"{name} {part}").bounding_box() for part in ("label", "img"))
            assert label["y"] + label["height"] <= picture_["y"] + 1
            assert picture_["height"] > 150
        tops = [boxes[name]["y"] for name in order]
        assert (tops == sorted(tops)) == (size[0] < 800)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0], "it scrolls sideways"
        x, y, side = SQUARES["green"]
        page.locator("#overview").scroll_into_view_if_needed()
        page.mouse.click(*at(page, x + side // 2, y + side // 2))
        says(page, "description", "Proposal 2 · objectness 0.700")
        assert not problems


def test_two_visitors_do_not_meet(served, photo, tmp_path):
    Image.fromarray(picture((H, W), blue=(50, 50, 50))).save(tmp_path / "one.png")
    with opened(served.address) as (page, problems):
        other = page.context.browser.new_page()
        other.goto(served.address)
        upload(page, photo)
        upload(other, tmp_path / "one.png")
        says(page, "status", "3 of 3 proposals")
        says(other, "status", "1 of 1 proposals")
        page.fill("#count input[type=number]", "2")
        says(page, "status", "2 of 3 proposals")
        assert not problems


def test_proposals_are_walked_by_keyboard_and_shown_under_the_pointer(served, photo):
    with opened(served.address) as (page, problems):
        upload(page, photo)
        says(page, "description", "Proposal 1 · objectness 0.900")
        rows = ["1 · 0.90 · 90 × 90", "2 · 0.70 · 60 × 60", "3 · 0.50 · 50 × 50"]
        assert page.locator("#list label").all_inner_texts() == rows
        page.focus("#list input >> nth=0")
        for key, number in (("ArrowDown", 2), ("ArrowDown", 3), ("ArrowDown", 1), ("ArrowUp", 3)):
            page.keyboard.press(key)
            says(page, "description", f"Proposal {number} ·")
        x, y, side = SQUARES["green"]
        page.mouse.click(*at(page, x + 5, y + 5))
        says(page, "description", "Proposal 2 ·")
        assert page.locator("#list input").nth(1).is_checked()

        page.mouse.move(*at(page, x + side // 2, y + side // 2))
        assert page.inner_text("#hovered_label") == rows[1]
        hovered = page.locator("#hovered")
        inside, outside = (
            hovered.evaluate(
                """(canvas, [x, y]) => canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1)
                    .data[3]""",
                [(px + 0.5) / W, (py + 0.5) / H],
            )
            for px, py in ((x + side // 2, y + side // 2), (x + side + 20, y))
        )
        assert inside > 0 and outside == 0
        page.mouse.move(*at(page, 395, 5))
        assert not hovered.is_visible() and not page.is_visible("#hovered_label")
        page.hover("#list label >> nth=2")
        assert hovered.is_visible() and not page.is_visible("#hovered_label")
        assert not problems


def test_all_controls_have_names(served, photo):
    roles = ("button", "slider", "spinbutton", "radio", "combobox", "link", "group", "image")
    with opened(served.address) as (page, problems):
        upload(page, photo)
        says(page, "status", "3 of 3 proposals")
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        controls = [node for node in tree if node.get("role", {}).get("value") in roles]
        names = [node.get("name", {}).get("value", "") for node in controls]
        assert len(names) > 20 and all(names), names
        assert page.get_attribute("#status", "role") == "status"
        assert not problems


def test_while_it_computes(served, photo, tmp_path):
    """It looks busy; sliders that move count afterwards; what is not wanted any more is not shown."""
    Image.fromarray(picture((H, W), blue=(50, 50, 50))).save(tmp_path / "one.png")
    with opened(served.address) as (page, problems):
        served.ready.clear()
        try:
            upload(page, photo)
            says(page, "status", "Looking for objects")
            says(page, "overview", "processing")
            page.fill("#score input[type=number]", "0.6")
            page.wait_for_timeout(500)
            assert "Looking for objects" in page.inner_text("#status")
            served.ready.set()
            says(page, "status", "2 of 3 proposals")

            served.ready.clear()
            asked = len(served.tiles)
            upload(page, photo)
            page.wait_for_function("document.querySelector('#overview').innerText.includes('processing')")
            page.click("#upload button[aria-label='Remove Image']")
            says(page, "status", "Drop an image")
            upload(page, tmp_path / "one.png")
            says(page, "status", "Looking for objects")
            served.ready.set()
            page.wait_for_function("/ of \\d+ proposals/.test(document.querySelector('#status').innerText)")
            assert "1 of 1 proposals" in page.inner_text("#status") and len(served.tiles) == asked + 2
        finally:
            served.ready.set()
        assert not problems


def test_tiles_are_an_option(served, photo):
    with opened(served.address) as (page, problems):
        upload(page, photo)
        says(page, "status", "3 of 3 proposals")
        assert served.tiles[-1] == "off"
        asked = len(served.tiles)
        page.click("#tile input")
        page.locator("[role=option]", has_text="1024").click()
        page.wait_for_function("document.querySelector('#list') !== null")
        for _ in range(100):
            if len(served.tiles) > asked:
                break
            page.wait_for_timeout(50)
        assert served.tiles[asked:] == [1024]
        says(page, "status", "3 of 3 proposals")
        upload(page, photo)
        says(page, "status", "3 of 3 proposals")
        assert not problems
