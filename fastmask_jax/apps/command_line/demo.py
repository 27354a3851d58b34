"""fastmask demo: serves a page that shows proposals in the browser."""

import argparse
import importlib.util
import ipaddress
import os
import sys
import tempfile
import threading
from collections.abc import Sequence

from fastmask_jax.apps.command_line.number_flags import integer
from fastmask_jax.configuration import parse_command_line
from fastmask_jax.errors import InvalidInput

DEFAULT = "coco_few"
_NOTES = {  # about the bundled networks
    "shapes": "trained in minutes on drawn shapes, not on photographs",
    DEFAULT: "trained on 473 fully and 3,199 partly labeled photographs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command until Ctrl-C; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="fastmask demo",
        description="Serves a page, by default to this machine only: drop an image to see its object proposals, filter "
        "them, click one to see its attention, and download them. Works offline.",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edges=1300",
    )
    parser.add_argument(
        "--weights",
        default=DEFAULT,
        metavar="SPEC",
        help=f"trained network: see docs/weights.md (default: {DEFAULT}, the bundled network for photographs)",
    )
    parser.add_argument(
        "--config",
        help="config file, with a variant after a colon (default: that of a network of this project's own, "
        "configs/coco.py for others)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=integer(1, 65535), default=7860, help="(default: 7860)")
    words, overrides = parse_command_line(parser, arguments)
    if importlib.util.find_spec("gradio") is None:
        raise InvalidInput("the page needs gradio: pip install -r requirements-demo.txt")

    import fastmask_jax  # JAX and gradio are imported here, after the fast checks

    generator = fastmask_jax.load(words.weights, config=words.config, overrides=overrides, report=_say)
    _say("\n".join(generator.loaded.lines()))

    note = _NOTES.get(words.weights, "")
    with tempfile.TemporaryDirectory(prefix="fastmask_page_") as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)  # read when gradio's components are made
        from fastmask_jax.apps.page.blocks import build_page
        from fastmask_jax.apps.page.serving import serve

        page = build_page(generator, f"Network: `{words.weights}`{note and f', {note}'}.")
        print(f"{serve(page, words.host, words.port)} shows the page; Ctrl-C ends it", flush=True)
        if not _is_loopback(words.host):
            _say(f"--host {words.host}: everyone who can reach this machine can use the page")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            page.close(verbose=False)
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
