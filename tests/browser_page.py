"""The page of demo.py, served with bright squares for a network, and a real browser that opens it."""

import json
import os
import shutil
import socket
import sys
import threading
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from fastmask_jax.inference.options import ProposeOptions
from tests.bright_generator import BrightGenerator

pytest.importorskip("gradio", reason="gradio is not installed (requirements-demo.txt)")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-test.txt)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (apt-get install chromium)")

H, W = 300, 400
SQUARES = {"red": (20, 30, 90), "green": (150, 60, 60), "blue": (300, 200, 50)}  # x, y, side; scores .9, .7, .5

_connections: list | None = None  # what this process connects to or looks up, while it is a list


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
    """A browser's page, and its list of errors and of requests to other machines."""
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
    """gradio asks how far an upload is, and of one that is over already gets 404, a console error of its own."""
    return "/upload_progress" in message.location["url"] or message.text == "Response"


class HeldGenerator(BrightGenerator):
    """Proposes bright squares when `ready` is set; notes what it was asked for."""

    def __init__(self):
        self.seen, self.tiles, self.ready = [], [], threading.Event()
        self.ready.set()
        self.config = ConfigDict({"evaluation": {"proposals": 1000}})
        super().__init__(self.seen.append)

    def propose(self, images, options=None, **changes):
        self.tiles.append(ProposeOptions(**changes).tile)
        assert self.ready.wait(60)
        return super().propose(images, options, **changes)


@contextmanager
def serving(folder: Path):
    """The page: address, images that were proposed on, and connections made; gradio keeps its files in a folder."""
    global _connections
    _connections = []
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    from fastmask_jax.apps.page.blocks import build_page
    from fastmask_jax.apps.page.serving import serve

    generator = HeldGenerator()
    page = build_page(generator, "Network: `squares`.")
    port = free_port()
    address = serve(page, "127.0.0.1", port)
    try:
        yield SimpleNamespace(
            address=address,
            port=port,
            seen=generator.seen,
            tiles=generator.tiles,
            ready=generator.ready,
            connections=_connections,
            blocks=page,
        )
    finally:
        page.close(verbose=False)
        _connections = None
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def upload(page, path):
    page.set_input_files("#upload input[type=file]", path)


def shown(page, name):
    """The address of a picture, and its pixels."""
    source = page.get_attribute(f"#{name} img", "src")
    return source, np.array(Image.open(BytesIO(page.request.get(source).body())).convert("RGB"))


def at(page, x, y):
    """Where a pixel of the original image lies on the screen; the picture is centered in its box."""
    box = page.locator("#overview img").bounding_box()
    scale = min(box["width"] / W, box["height"] / H)
    left = box["x"] + (box["width"] - scale * W) / 2
    top = box["y"] + (box["height"] - scale * H) / 2
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def says(page, where, text):
    page.wait_for_selector(f"#{where}:has-text({json.dumps(text, ensure_ascii=False)})")
