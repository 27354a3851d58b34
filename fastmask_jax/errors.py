"""Exceptions for user errors: commands print them as one line, all other exceptions with their traceback.

Each class also derives from the built-in exception that a library user expects. Messages show values and names from
files as `shown` and `printable` give them.
"""

from typing import Any

_LONGEST_NAME = 200
_LONGEST_VALUE = 80


class UserError(Exception):
    """An error in the user's input; the message is one line that names the file, setting or shape, and the remedy."""


class InvalidInput(UserError, ValueError):
    """A value, a setting or the content of a file is invalid."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder given by the user does not exist."""


class ExistingFile(UserError, FileExistsError):
    """The output already exists."""


class WorkerDied(UserError, RuntimeError):
    """A worker process was killed, in most cases out of memory."""


def shown(value: Any) -> str:
    """Returns a value as a message shows it: at most 80 characters."""
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # an integer of more digits than Python writes
        text = f"an integer of about {int(value.bit_length() * 0.30103)} digits"
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def printable(name: str) -> str:
    """Escapes and truncates an untrusted name for display; known names are unchanged."""
    if len(name) <= _LONGEST_NAME and name.isprintable():
        return name
    return ascii(name[:_LONGEST_NAME])[1:-1] + ("…" if len(name) > _LONGEST_NAME else "")
