"""Creates directories atomically."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastmask_jax.errors import ExistingFile


def refuse_existing(directory: Path, marker: str, overwrite: bool) -> None:
    """Checks that `directory` may be written.

    Args:
      directory: directory to write.
      marker: a file that a finished directory contains.
      overwrite: a finished directory may be replaced.

    Raises:
      FileExistsError: a finished directory exists and `overwrite` is not set, or something else exists.
    """
    if (directory / marker).exists():
        if not overwrite:
            raise ExistingFile(f"{directory}: already exists; use --overwrite to build it again")
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ExistingFile(f"{directory}: exists, but was not written by prepare.py; remove it or choose another")


@contextmanager
def appearing_whole(directory: Path) -> Iterator[Path]:
    """Yields a temporary path on the same disk, which is renamed to `directory` if the block succeeds.

    After an error or Ctrl-C, the temporary files are removed and an existing `directory` is unchanged. A killed process
    leaves a hidden folder .<name>.partial, which the next process removes.
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
