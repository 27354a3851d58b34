"""Kinds of settings, with their types and ranges, for `config_schema`. Does not import JAX."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from fastmask_jax.errors import InvalidInput, shown


@dataclass(frozen=True)
class Integer:
    """An integer from `least` to `most`, a multiple of `of`."""

    least: int
    most: int
    of: int = 1

    def check(self, key: str, value: Any) -> None:
        """Raises a one-line ValueError if the setting `key` must not have this value, like `check` of every kind."""
        what = f"a multiple of {self.of}" if self.of > 1 else "an integer"
        wanted = f"{key}={shown(value)}: expected {what} from {self.least} to {self.most}"
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InvalidInput(wanted)
        nearest = min(max(int(value), self.least), self.most) // self.of * self.of
        if value != nearest:
            raise InvalidInput(f"{wanted}; the nearest is {nearest}")


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`; `open` excludes bounds: "(" the lower one, ")" the upper one, "()" both."""

    least: float | int
    most: float | int
    open: str = ""

    def check(self, key: str, value: Any) -> None:
        low = f"above {self.least:g}" if "(" in self.open else f"from {self.least:g}"
        high = f"and below {self.most:g}" if ")" in self.open else f"to {self.most:g}"
        wanted = f"{key}={shown(value)}: expected a number {low} {high}"
        if not isinstance(value, Real) or isinstance(value, bool) or value != value:
            raise InvalidInput(wanted)
        number: Any = value  # Real's type has no comparison with floats
        if number < self.least or (number == self.least and "(" in self.open):
            raise InvalidInput(wanted if "(" in self.open else f"{wanted}; the nearest is {self.least:g}")
        if number > self.most or (number == self.most and ")" in self.open):
            raise InvalidInput(wanted if ")" in self.open else f"{wanted}; the nearest is {self.most:g}")


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise InvalidInput(f"{key}={shown(value)}: expected True or False")


@dataclass(frozen=True)
class Text:
    """Any text, such as the path of a file."""

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, str):
            raise InvalidInput(f"{key}={shown(value)}: expected a text")


@dataclass(frozen=True)
class Name:
    """One of some names, or of the keys of a table."""

    names: Collection[str]

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, str) or value not in self.names:
            near = nearest_name(value, self.names)
            hint = f"; did you mean {near!r}?" if near else ""
            raise InvalidInput(f"{key}={shown(value)} is not one of {list(self.names)}{hint}")


@dataclass(frozen=True)
class NameOrInteger:
    """One of some names, or an integer, which may be given as text."""

    names: Collection[str]
    integer: Integer

    def check(self, key: str, value: Any) -> None:
        if isinstance(value, str) and not value.isdecimal():
            Name([*self.names, "an integer"]).check(key, value)
        else:
            self.integer.check(key, int(value[:20]) if isinstance(value, str) else value)


@dataclass(frozen=True)
class Several:
    """A tuple of values of one kind, with `length` values if given, otherwise at least `least`."""

    item: "Kind"
    length: int | None = None
    least: int = 1
    ascending: bool = False

    def check(self, key: str, value: Any) -> None:
        wanted = f"{key}={shown(value)}: expected a tuple"
        if not isinstance(value, list | tuple):
            raise InvalidInput(wanted)
        if self.length is not None and len(value) != self.length:
            raise InvalidInput(f"{wanted} of {self.length} values")
        if len(value) < self.least:
            raise InvalidInput(f"{wanted} of at least {self.least} value(s)")
        for number, one in enumerate(value):
            self.item.check(f"{key}[{number}]", one)
        if self.ascending and list(value) != sorted(set(value)):
            raise InvalidInput(f"{wanted} in ascending order, each value once: {tuple(sorted(set(value)))}")


Kind = Integer | Number | Flag | Text | Name | NameOrInteger | Several


def nearest_name(word: Any, names: Collection[str]) -> str | None:
    """Returns the name most similar to a word, ignoring case; None if none is similar."""
    by_case = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(word).lower(), by_case, n=1, cutoff=0.6)
    return by_case[near[0]] if near else None
