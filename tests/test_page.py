"""The demo page in a real browser: uploads, sliders, clicks, downloads, errors; nothing leaves the machine."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from io import BytesIO
from types import SimpleNamespace
from urllib.request import Request, urlopen

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from fastmask_jax.apps.command_line import demo
from fastmask_jax.configuration import run_command
from tests import tiny
from tests.bright_generator import COLORS, BrightGenerator, picture

pytest.importorskip("gradio", reason="gradio is not installed (requirements-demo.txt)")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-test.txt)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or chrome (apt-get install chromium)")

H, W = 300, 400
SQUARES = {"red": (20, 30, 90), "green": (150, 60, 60), "blue": (300, 200, 50)}  # x, y, side; scores .9, .7, .5
INFERNO_HALF = np.array([0.735683, 0.215906, 0.330245]) * 255  # matplotlib's inferno at 0.5, the attention everywhere

_connections: list | None = None  # records this process's connections and look-ups while it is a list


def _watch(event, arguments):
    if _connections is not None and event in ("socket.connect", "socket.getaddrinfo"):
        _connections.append(arguments[1] if event == "socket.connect" else arguments[:1])


sys.addaudithook(_watch)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def opened(address):
    """Yields a browser page, and a list of its errors and its requests to other machines."""
    problems = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 1060})
        page.set_default_timeout(30_000)

        def heard(message):
            if message.type == "error" and not _of_quick_upload(message):
                problems.append(f"{message.text} {message.location}")

        def asked(request):
            if not request.url.startswith((address, "data:", "blob:")):
                problems.append(request.url)

        page.on("console", heard)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", asked)
        page.goto(address)
        page.wait_for_selector("#example")
        yield page, problems
        browser.close()


def _of_quick_upload(message):
    """Returns whether a console error is gradio's 404 for the progress of a finished upload."""
    return "/upload_progress" in message.location["url"] or message.text == "Response"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page with `BrightGenerator` as the network: its address, the processed images, and the connections."""
    global _connections
    _connections = []
    from fastmask_jax.apps.page.blocks import build_page, serve

    seen = []
    generator = BrightGenerator(seen.append)
    generator.config = ConfigDict({"evaluation": {"proposals": 1000}})
    page = build_page(generator, "Network: `squares`.", tmp_path_factory.mktemp("downloads"))
    port = free_port()
    address = serve(page, "127.0.0.1", port)
    yield SimpleNamespace(address=address, port=port, seen=seen, connections=_connections, blocks=page)
    page.close(verbose=False)
    _connections = None


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "squares_42.png"
    Image.fromarray(picture((H, W), **SQUARES)).save(path)
    return path


def upload(page, path):
    page.set_input_files("#upload input[type=file]", path)


def shown(page, name):
    """Returns the address of a picture and its pixels."""
    source = page.get_attribute(f"#{name} img", "src")
    return source, np.array(Image.open(BytesIO(page.request.get(source).body())).convert("RGB"))


def click(page, x, y):
    """Clicks the overview at a pixel of the original image; the picture is centered in its box."""
    box = page.locator("#overview img").bounding_box()
    scale = min(box["width"] / W, box["height"] / H)
    left = box["x"] + (box["width"] - scale * W) / 2
    top = box["y"] + (box["height"] - scale * H) / 2
    page.mouse.click(left + (x + 0.5) * scale, top + (y + 0.5) * scale)


def says(page, where, text):
    page.wait_for_selector(f"#{where}:has-text({json.dumps(text, ensure_ascii=False)})")


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
        click(page, x + side // 2, y + side // 2)
        says(page, "description", "Proposal 2 · objectness 0.700")
        says(page, "description", f"at ({x}, {y})")
        window, attention = (shown(page, name)[1] for name in ("window", "attention"))
        scale = len(window) / 60  # the window begins 10 pixels left of the object and above, and has 60
        inside = round(30 * scale)
        np.testing.assert_allclose(window[inside, inside], COLORS["green"], atol=2)
        gray = np.dot(COLORS["green"], [0.299, 0.587, 0.114])  # attention is drawn on the gray image
        expected = 0.4 * gray + 0.6 * INFERNO_HALF
        np.testing.assert_allclose(attention[inside, inside], expected, atol=3)
        click(page, 395, 5)
        says(page, "description", "Nothing is proposed where you clicked")

        page.focus("#next button" if page.locator("#next button").count() else "#next")
        page.keyboard.press("Enter")
        says(page, "description", "Proposal 1 · objectness 0.900")
        page.keyboard.press("Enter")
        says(page, "description", "Proposal 2 · objectness 0.700")

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
        click(page, x + side // 2, y + side // 2)
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


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}], ids=["bare", "as gradio writes it"])
def test_a_forged_message_reads_no_file_of_the_machine(served, photo, meta):
    events = json.loads(urlopen(f"{served.address}config").read())["dependencies"]
    number = next(event["id"] for event in events if len(event["inputs"]) == 4 and len(event["outputs"]) == 10)
    message = {"data": [{"path": str(photo), **meta}, 0, 1, 6], "fn_index": number, "session_hash": photo.parent.name}
    join = Request(f"{served.address}gradio_api/queue/join", json.dumps(message).encode())
    join.add_header("Content-Type", "application/json")
    before = len(served.seen)
    urlopen(join).read()
    answer = urlopen(f"{served.address}gradio_api/queue/data?session_hash={photo.parent.name}", timeout=30)
    done = next(line.decode() for line in answer if b"process_completed" in line)
    assert "squares_42.png was not uploaded" in done or '"success":false' in done
    assert len(served.seen) == before


def test_nothing_is_asked_of_other_machines(served):
    """Neither the import of gradio nor the page contacts other machines; `problems` has the browser's requests."""
    assert not served.blocks.analytics_enabled and not served.blocks.share
    hosts = {address[0] for address in served.connections if isinstance(address, tuple)}
    assert {host.decode() if isinstance(host, bytes) else host for host in hosts} <= {"127.0.0.1", "localhost", None}
    with socket.socket() as probe:
        probe.settimeout(5)
        own = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), served.port, socket.AF_INET)]
        others = [host for host in own if not host.startswith("127.")]
        assert all(probe.connect_ex((host, served.port)) for host in others), "it listens beyond this machine"


def test_names_of_other_hosts_are_refused(served):
    """A page of another site whose name resolves to this address must not use the server (DNS rebinding)."""
    for host, status in (("evil.example", 400), (f"localhost:{served.port}", 200), (f"127.0.0.1:{served.port}", 200)):
        asked = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        asked.request("GET", "/config", headers={"Host": host})
        assert asked.getresponse().status == status, host
        asked.close()


def test_the_own_address_is_not_asked_through_a_proxy(tmp_path, monkeypatch):
    from fastmask_jax.apps.page.blocks import build_page, serve

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    generator = BrightGenerator()
    generator.config = ConfigDict({"evaluation": {"proposals": 1000}})
    page = build_page(generator, "", tmp_path)
    port = free_port()
    assert serve(page, "127.0.0.1", port) == f"http://127.0.0.1:{port}/"
    page.close(verbose=False)
    assert "NO_PROXY" not in os.environ or "::1" not in os.environ["NO_PROXY"]


def test_a_port_in_use_is_one_line(served, tmp_path):
    from fastmask_jax.apps.page.blocks import build_page, serve

    line = f"^--host 127.0.0.1 --port {served.port}: cannot be served there; another --port may be free$"
    with pytest.raises(ValueError, match=line):
        serve(build_page(BrightGenerator(), "", tmp_path), "127.0.0.1", served.port)


def test_mistakes_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as exit_:
        demo.main(["--port", "70000"])
    assert exit_.value.code == 2 and "--port 70000: 1 to 65535" in capsys.readouterr().err
    assert run_command(lambda: demo.main(["--weights", "nowhere"])) == 2
    assert "--weights nowhere: no file or folder nowhere" in capsys.readouterr().err


def test_the_command_alone(tmp_path):
    """python demo.py with the bundled network, on an example that the page draws, until Ctrl-C."""
    port = free_port()
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(tiny.ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(tiny.ROOT / "demo.py"), "--port", str(port), "--config.evaluation.proposals=200"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/ shows the page; Ctrl-C stops it\n"
        with opened(f"http://127.0.0.1:{port}/") as (page, problems):
            assert "3,199 partly labeled photographs" in page.inner_text("body")
            page.set_default_timeout(240_000)  # for compilation while other tests run
            page.click("#example")
            says(page, "status", "of 200 proposals")
            assert re.match(r"Proposal 1 · objectness 0\.\d{3}", page.inner_text("#description"))
            assert shown(page, "overview")[1].std() > 20
            assert not problems
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in errors, errors
        assert "left at initial values: nothing" in errors
    finally:
        process.kill()
        process.wait()
