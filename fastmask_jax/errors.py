"""Exceptions for user errors: commands print them as one line, all other exceptions with their traceback.

Each class also derives from the built-in exception that a library user expects.
"""


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
