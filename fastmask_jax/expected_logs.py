"""Drops expected log lines of other packages that would only worry a reader."""

import logging

_EXPECTED = (
    "Requested `tracked_metric`; did not provide",  # orbax: a checkpoint that was saved without an evaluation
    "Given directory is read only",  # orbax: a run that is only read
    "Grain multiprocess worker profiling requires jaxlib",  # grain, jaxlib < 0.11: not profiled here
)


def drop_expected_logs() -> None:
    """Filters absl's logger, which orbax and grain use. grain logs while it is imported, so call this before."""
    logging.getLogger("absl").addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_EXPECTED)
