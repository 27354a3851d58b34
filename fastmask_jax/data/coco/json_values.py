"""Numbers and flags as the JSON files of many programs have them."""

from typing import Any

_INT64 = 1 << 63
_FLAGS = {word: False for word in ("", "0", "false", "f", "no", "n", "off", "none", "null")}
_FLAGS |= {word: True for word in ("1", "true", "t", "yes", "y", "on")}


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
