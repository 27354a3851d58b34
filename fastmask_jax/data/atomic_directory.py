"""Directories that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastmask_jax.errors import ExistingFile


def refuse_existing(directory: Path, marker: str, overwrite: bool) -> None:
    """Makes sure that `directory` may be written.

    Args:
      directory: to be written.
      marker: a file that a finished one holds.
      overwrite: a finished one may be replaced.

    Errors:
      FileExistsError: a finished one is there without `overwrite`, or something that is none.
    """
    if (directory / marker).exists():
        if not overwrite:
            raise ExistingFile(f"{directory}: is finished already; give --overwrite to build it again")
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ExistingFile(f"{directory}: is there, but is nothing that prepare.py made; remove it or choose another")


@contextmanager
def appearing_whole(directory: Path) -> Iterator[Path]:
    """Gives a path, in an empty folder on the same disk, for a directory that becomes `directory` when all went well.

    After an error or Ctrl-C nothing of it is left and what was at `directory` is still there. A killed process leaves
    the hidden folder .<name>.partial, which the next one clears away.
    """
    directory = directory.absolute()
    folder = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder / "new"
        if directory.exists():
            directory.rename(folder / "old")
        (folder / "new").rename(directory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
