"""JSON files of other programs: decoding ends with a value or one line; numbers and flags in the forms they use."""

import json
from typing import Any

from fastmask_jax.errors import InvalidInput

DEEPEST = 20  # levels of an entry; pickling and writing recurse
_MOST_DIGITS = 400  # longer integers are beyond float64, and Python refuses those of 4,300 digits and more
_INT64 = 1 << 63
_PLAIN = {str, bytes, int, float, bool, type(None)}
_FLAGS = {word: False for word in ("", "0", "false", "f", "no", "n", "off", "none", "null")}
_FLAGS |= {word: True for word in ("1", "true", "t", "yes", "y", "on")}


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)  # infinite


DECODER = json.JSONDecoder(parse_int=_integer)


def decoded(data: bytes, source: object) -> Any:
    """Decodes a JSON file in UTF-8, UTF-16 or UTF-32. Integers of more than 400 digits become infinite.

    Args:
      data: its content.
      source: the file, for messages.

    Raises:
      ValueError: not JSON, not text, or nested too deeply; one line.
    """
    try:
        return json.loads(data, parse_int=_integer)  # bytes: a byte order mark says which encoding it is
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{source}: not readable: byte {error.start} is no {error.encoding} text") from None
    except RecursionError:
        raise InvalidInput(f"{source}: not readable: its values are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{source}: not complete JSON (truncated download?): {error}") from None


def is_shallow(value: Any, levels: int = DEEPEST) -> bool:
    """Returns whether a value has at most this many levels of lists and objects."""
    if not isinstance(value, list | dict):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(is_shallow(one, levels - 1) for one in inner if isinstance(one, list | dict))


def whole_number(value: Any) -> int | None:
    """Returns a whole number of 64 bits from 7, 7.0 or "7"; None from anything else."""
    number = number_of(value)
    if number is None or not -_INT64 <= number < _INT64 or number != int(number):  # NaN fails the comparison
        return None
    return int(number)


def number_of(value: Any) -> int | float | None:
    """Returns a number from a number, or from a text that says one; None from anything else. NaN passes."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if "_" in value:  # int("1_0") is 10
            return None
        try:
            return int(value)
        except ValueError:
            try:
                return float(value)
            except ValueError:
                return None
    return value if isinstance(value, int | float) else None


def flag(value: Any) -> bool | None:
    """Returns a flag from 0, 1, false, true, null (false), or a text that says one of them; None from anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        value = value.strip().lower()
        if value in _FLAGS:
            return _FLAGS[value]
    number = number_of(value)
    return bool(number) if number in (0, 1) else None


def plain(value: Any) -> Any:
    """Returns a value of a program's own entries as JSON has it: arrays of any library become numbers and lists."""
    if type(value) in _PLAIN:
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return list(value) if _PLAIN.issuperset(map(type, value)) else [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: one if type(one) in _PLAIN else plain(one) for key, one in value.items()}
    return bytes(value) if isinstance(value, bytearray) else value
