"""Answers requests that no browser sends with an error alone: the log keeps tracebacks for faults of the page."""

import logging
import traceback
from typing import Any

import gradio as gr

LINE = "This request is not one of the page's."


class Page(gr.Blocks):
    """Blocks that refuse values that the page's components cannot have, and events that have no function."""

    async def preprocess_data(self, *args: Any, **options: Any) -> list[Any]:
        """Returns the values that an event's function takes, from those of a request."""
        try:
            return await super().preprocess_data(*args, **options)
        except Exception as error:  # components raise errors of many kinds at values that they cannot have
            raise gr.Error(LINE, print_exception=False) from error

    async def call_function(self, block_fn: Any, *args: Any, **options: Any) -> Any:
        """Calls an event's function."""
        if not (self.fns[block_fn] if isinstance(block_fn, int) else block_fn).fn:
            raise gr.Error(LINE, print_exception=False)
        return await super().call_function(block_fn, *args, **options)


def quiet_server_log() -> None:
    """Drops what uvicorn logs when gradio is asked for an unknown event, or for the answers to an unknown session."""
    log = logging.getLogger("uvicorn.error")
    if _of_the_page not in log.filters:
        log.addFilter(_of_the_page)


def _of_the_page(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, KeyError):
        return "get_fn" not in {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    # gradio says 404 for a session when its answer has begun.
    return not (isinstance(error, RuntimeError) and "response already started" in str(error))
