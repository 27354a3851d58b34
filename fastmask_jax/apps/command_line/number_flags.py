"""Numbers on the command line: every one has a range."""

import argparse
from collections.abc import Callable

from fastmask_jax.errors import InvalidInput, shown
from fastmask_jax.setting_kinds import Integer, Number

MOST = 2**31 - 1  # of what has no limit of its own


def integer(least: int, most: int = MOST) -> Callable[[str], int]:
    """Returns the `type` of a flag that takes an integer from `least` to `most`."""
    return _reader(int, Integer(least, most))


def number(least: float | int, most: float | int, open: str = "") -> Callable[[str], float]:
    """Returns the `type` of a flag that takes a number from `least` to `most`; `open` excludes ends, as of `Number`."""
    return _reader(float, Number(least, most, open))


def _reader(parse: Callable[[str], int | float], kind: Integer | Number) -> Callable[[str], int | float]:
    def read(text: str) -> int | float:
        try:
            value = parse(text)
        except ValueError:  # no number, or an integer of thousands of digits
            value = None
        try:
            kind.check("", text if value is None else value)
        except InvalidInput as error:
            wanted = str(error).partition(": ")[2]
            raise argparse.ArgumentTypeError(f"{shown(text)[1:-1]}: {wanted}") from None
        return value

    return read
