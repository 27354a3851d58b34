"""Drops harmless log lines of other packages."""

import logging
import os

_EXPECTED = (
    "Requested `tracked_metric`; did not provide",  # orbax: a checkpoint saved without an evaluation
    "Given directory is read only",  # orbax: a run opened for reading
    "Metadata file does not exist",  # orbax: a folder that is not a checkpoint, which our own line names
    "Attempted to create temporary directory",  # orbax: replaces the remains of an interrupted save
    "Grain multiprocess worker profiling requires jaxlib",  # grain with jaxlib < 0.11: workers are not profiled here
)

_RAISED_LATER = (  # orbax: errors of saving threads, which the next call raises
    "_SignalingThread.run() raised an exception",
    "Handler Commit operations or the Commit callback in background save thread",
    "Save Finalize thread",
    "was found in the checkpoint, but could not be restored",  # of a damaged one
)


def drop_expected_logs() -> None:
    """Filters absl's logger, which orbax and grain use, and silences XLA's own log.

    XLA logs banners such as "Very slow compile?" on slow machines; TF_CPP_MIN_LOG_LEVEL=0 shows them. Call this before
    importing JAX, which reads that variable, and grain, which logs during its import.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not text.startswith(_EXPECTED) and not any(part in text for part in _RAISED_LATER)
