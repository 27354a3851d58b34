"""JSON files of other programs and of strangers: whatever is in them, decoding ends with a value or in one line."""

import json
from typing import Any

from fastmask_jax.errors import InvalidInput

DEEPEST = 20  # levels of an entry; pickling and writing recurse
_MOST_DIGITS = 400  # longer integers are beyond float64, and Python refuses those of 4,300 digits and more


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
