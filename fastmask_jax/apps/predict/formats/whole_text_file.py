"""Text files that appear under their names only when they are complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fastmask_jax.whole_file import whole_file


@contextmanager
def whole_text_file(path: Path) -> Iterator[TextIO]:
    """Opens a text file for writing that appears when the `with` block ends without an error.

    Args:
      path: of the file; its folder is made.
    """
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        yield file
