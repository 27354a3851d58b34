"""Serves the page from threads of this process, to the hosts that may ask for it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fastmask_jax.apps.page.forged_requests import quiet_server_log
from fastmask_jax.apps.page.uploads import MOST_BYTES
from fastmask_jax.errors import InvalidInput

FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # those of the visitor's machine: none is fetched
MOST_VISITORS = 32  # whose images are kept at the same time
CSS = Path(__file__).with_name("page.css")


@contextmanager
def _without_proxy(hosts: Sequence[str]) -> Iterator[None]:
    """Keeps gradio, which asks its own address whether it answers, from asking a proxy for it."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    for name, value in before.items():
        os.environ[name] = ",".join([*filter(None, [value]), *hosts])
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(page: gr.Blocks, host: str, port: int) -> str:
    """Serves a page until `page.close()`; returns its address.

    Raises:
      ValueError: the address cannot be bound; one line.
    """
    own = ["127.0.0.1", "localhost", "::1", host]
    hosts = [host, "127.0.0.1", "localhost"] if host in own[:3] else ["*"]  # other names of this machine are unknown
    quiet_server_log()
    try:
        with _without_proxy(own):
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
                max_file_size=MOST_BYTES,
                state_session_capacity=MOST_VISITORS,
                theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["ui-monospace", "monospace"]),
                css_paths=CSS,
            )
    except OSError as error:
        raise InvalidInput(
            f"--host {host} --port {port}: cannot be served there; another --port may be free"
        ) from error
    return address
