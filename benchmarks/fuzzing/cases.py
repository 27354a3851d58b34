"""The kinds of cases, and how one ended."""

import contextlib
import io
import traceback
import warnings
from collections.abc import Callable
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
    """Runs case `number`. What it prints, and what it warns of, is dropped."""
    rng = np.random.default_rng(number)
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
