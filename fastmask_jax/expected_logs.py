"""Drops log lines of other packages that would only worry a reader."""

import logging
import os

_EXPECTED = (
    "Requested `tracked_metric`; did not provide",  # orbax: a checkpoint that was saved without an evaluation
    "Given directory is read only",  # orbax: a run that is only read
    "Attempted to create temporary directory",  # orbax: what a save that was cut short has left is replaced
    "Grain multiprocess worker profiling requires jaxlib",  # grain, jaxlib < 0.11: not profiled here
)

_RAISED_LATER = (  # orbax: what went wrong in a thread that saves is raised by the next call
    "_SignalingThread.run() raised an exception",
    "Handler Commit operations or the Commit callback in background save thread",
    "Save Finalize thread",
)


def drop_expected_logs() -> None:
    """Filters absl's logger, which orbax and grain use, and what XLA writes beside the exceptions that it raises.

    XLA's errors include banners such as "Very slow compile?" on slow machines. TF_CPP_MIN_LOG_LEVEL=0 shows all of it.
    grain logs while it is imported, and XLA reads the variable when JAX is imported: call this before.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not text.startswith(_EXPECTED) and not any(part in text for part in _RAISED_LATER)
