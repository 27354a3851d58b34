"""The kinds of cases, and how one ended."""

import contextlib
import io
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.fuzzing.command_lines import command_line_case
from benchmarks.fuzzing.configs import config_case
from benchmarks.fuzzing.images import image_case
from benchmarks.fuzzing.json_files import json_case
from benchmarks.fuzzing.weights import weight_case
from fastmask_jax.errors import UserError

Case = Callable[[np.random.Generator], object]  # may raise

KINDS: dict[str, Callable[[Path], Case]] = {  # each gets a folder of its own
    "images": image_case,
    "json": json_case,
    "weights": weight_case,
    "configs": config_case,
    "command_lines": command_line_case,
}


class Ending(NamedTuple):
    """How a case ended: see benchmarks/fuzz.py."""

    how: str
    why: str = ""


def ending_of(case: Case, number: int) -> Ending:
    """Runs case `number`. What Python prints is dropped; what C libraries print would reach the user."""
    with tempfile.TemporaryFile() as lines, _stderr_to(lines.fileno()):
        ending = _ending_of(case, np.random.default_rng(number))
        printed = os.pread(lines.fileno(), 200, 0)
    return Ending("traceback", f"printed by a library: {printed!r}") if printed else ending


@contextlib.contextmanager
def _stderr_to(file: int) -> Iterator[None]:
    stderr = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _ending_of(case: Case, rng: np.random.Generator) -> Ending:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("error", RuntimeWarning)  # NumPy's, of overflows: they would reach the user
        try:
            case(rng)
            return Ending("fine")
        except UserError as error:
            text = str(error)
            if "\n" in text or len(text) > 2000:
                return Ending("traceback", f"a message of {len(text)} characters: {text[:80]!r}")
            return Ending("one line")
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "fastmask_jax" in frame.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
            return Ending("traceback", f"{type(error).__name__} at {place}: {str(error)[:150]!r}")
