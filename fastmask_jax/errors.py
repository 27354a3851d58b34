"""Errors that are the user's to mend: commands print them as one line, all others with their traceback.

Each class is also the built-in exception that a library user expects.
"""


class UserError(Exception):
    """A mistake in what the user gave: one line that names the file, setting or shape, and the remedy."""


class InvalidInput(UserError, ValueError):
    """A value, a setting or the content of a file is wrong."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class ExistingFile(UserError, FileExistsError):
    """What would be written is there already."""


class WorkerDied(UserError, RuntimeError):
    """A process beside this one was killed, mostly for want of memory."""
