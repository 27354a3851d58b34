"""Memory of the page with large images and after their removal. Needs requirements-demo.txt.

    PYTHONPATH=. python benchmarks/page_memory.py --megapixels 31 --images 3

Starts demo.py, uploads drawn images of so many megapixels one after the other, as a browser does, removes each, and
prints the resident memory of the server. The page refuses images of more than 32 megapixels by their header.
"""

import argparse
import contextlib
import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
from PIL import Image

from fastmask_jax.data.shapes.dataset import ShapesSpec, draw

SESSION = "memory"
WAIT = 1200  # seconds


def encoded(megapixels: float, seed: int) -> bytes:
    """Draws shapes, enlarged to an image of 4:3, as JPEG."""
    side = round((megapixels * 1e6 / 12) ** 0.5)
    image = draw(ShapesSpec(), (seed,)).image
    file = io.BytesIO()
    Image.fromarray(image).resize((4 * side, 3 * side)).save(file, "jpeg", quality=90)
    return file.getvalue()


class Visitor:
    """Sends the page's events without a browser."""

    def __init__(self, address: str) -> None:
        self._address = address
        config = json.loads(self._read("config"))
        self._events = [(event["id"], event["targets"], len(event["inputs"])) for event in config["dependencies"]]
        self._after = {event["id"]: event.get("trigger_after") for event in config["dependencies"]}

    def upload(self, data: bytes) -> None:
        """Uploads an image and waits for its proposals."""
        border = "border"
        head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="photo.jpg"\r\n\r\n'.encode()
        body = head + data + f"\r\n--{border}--\r\n".encode()
        (path,) = json.loads(self._read("gradio_api/upload", body, f"multipart/form-data; boundary={border}"))
        self._run({"path": path, "meta": {"_type": "gradio.FileData"}})

    def remove(self) -> None:
        """Removes the image."""
        self._run(None)

    def _run(self, image: Any) -> None:
        """Sends the first event of an upload, and those that the page sends after it."""
        tile, sliders = "off", [0, 1, 6]
        # The page names no event: the number of inputs tells uploading, proposing and drawing apart.
        values = {2: [image, None], 6: [image, None, tile, *sliders], 4: [None, *sliders]}  # None: kept by the server
        event = next(number for number, targets, _ in self._events if any(name == "input" for _, name in targets))
        while event is not None:
            self._send(event, values[next(count for number, _, count in self._events if number == event)])
            event = next((number for number, before in self._after.items() if before == event), None)

    def _send(self, event: int, data: list[Any]) -> None:
        message = {"data": data, "fn_index": event, "session_hash": SESSION}
        self._read("gradio_api/queue/join", json.dumps(message).encode(), "application/json")
        url = f"{self._address}gradio_api/queue/data?session_hash={SESSION}"
        with urllib.request.urlopen(url, timeout=WAIT) as lines:
            next(line for line in lines if b"process_completed" in line)

    def _read(self, path: str, data: bytes | None = None, kind: str = "") -> bytes:
        request = urllib.request.Request(self._address + path, data, {"Content-Type": kind} if kind else {})
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return answer.read()


@contextlib.contextmanager
def page(weights: str) -> Iterator[tuple[str, psutil.Process]]:
    """Starts demo.py; yields (address, process).

    Raises:
      RuntimeError: it ended, or does not answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fastmask_jax", "demo", "--weights", weights, "--port", str(port)]
    with subprocess.Popen(command) as process:
        address = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(WAIT):
                with contextlib.suppress(urllib.error.URLError):
                    urllib.request.urlopen(address).close()
                    break
                if process.poll() is not None:
                    break
                time.sleep(1)
            else:
                raise RuntimeError(f"demo.py does not answer at {address} after {WAIT} seconds")
            if process.poll() is not None:
                raise RuntimeError(f"demo.py ended with exit status {process.returncode}")
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megapixels", type=float, default=31)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--weights", default="coco_few")
    options = parser.parse_args()
    with page(options.weights) as (address, process):

        def say(when: str) -> None:
            time.sleep(2)
            print(f"{when:<24}{process.memory_info().rss / 1e6:7.0f} MB", flush=True)

        visitor = Visitor(address)
        say("started")
        visitor.upload(encoded(1, 0))
        visitor.remove()
        say("1 megapixel, removed")
        for number in range(1, options.images + 1):
            visitor.upload(encoded(options.megapixels, number))
            say(f"image {number}, shown")
            visitor.remove()
            say(f"image {number}, removed")


if __name__ == "__main__":
    main()
