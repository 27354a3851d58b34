"""Drops expected log lines of other packages that would only worry a reader."""

import logging

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
    """Filters absl's logger, which orbax and grain use. grain logs while it is imported, so call this before."""
    logging.getLogger("absl").addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not text.startswith(_EXPECTED) and not any(part in text for part in _RAISED_LATER)
