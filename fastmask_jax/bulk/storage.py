"""Reads and writes files at any address that fsspec supports: a local path, s3://, gs://, …"""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from fastmask_jax.errors import InvalidInput
from fastmask_jax.full_disk import naming_full_disk

_UNFINISHED = "unfinished"
_AGAIN = "all finished shards are safe: free some space; the same command goes on"


def locate(address: str) -> tuple[Any, str]:
    """Returns the fsspec file system of an address and the path in it.

    Raises:
      ValueError: an unknown protocol, or one whose package is not installed; one line.
    """
    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise InvalidInput(f"{address}: {error}") from None


def absolute(address: str) -> str:
    """Returns an address that is valid in every process: makes relative local paths absolute."""
    fs, path = locate(address)
    return path if _is_local(fs) else fs.unstrip_protocol(path)


def _is_local(fs: Any) -> bool:
    return isinstance(fs, fsspec.implementations.local.LocalFileSystem)


class OutputFolder:
    """A folder in which files are written atomically: to a temporary name, then moved. Picklable."""

    def __init__(self, address: str) -> None:
        """
        Args:
          address: address of the folder; created when the first file is written.

        Raises:
          ValueError: as for `locate`.
        """
        self.address = absolute(address)
        self._fs, self._path = locate(self.address)

    def __str__(self) -> str:
        return self.address

    def path(self, name: str) -> str:
        """Returns the address of a file in this folder, for messages."""
        return f"{self.address}/{name}"

    def names(self, folder: str = "") -> list[str]:
        """Returns the sorted names of the entries of a subfolder; an empty list if it does not exist."""
        try:
            self._fs.invalidate_cache()
            below = self._fs.ls(f"{self._path}/{folder}".rstrip("/"), detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in below)

    def exists(self, name: str) -> bool:
        """Returns whether a file exists."""
        self._fs.invalidate_cache()
        return self._fs.exists(f"{self._path}/{name}")

    def open(self, name: str) -> Any:
        """Opens a file for reading bytes; use it in a `with` block."""
        return self._fs.open(f"{self._path}/{name}", "rb")

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        return self._fs.cat_file(f"{self._path}/{name}")

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yields a local path to write to; the file becomes `name` if the block ends without an error."""
        with (
            naming_full_disk(self.path(name), _AGAIN),
            tempfile.TemporaryDirectory(prefix="fastmask_jax-") as folder,
        ):
            local = Path(folder) / "file"
            yield local
            unfinished = f"{self._path}/{_UNFINISHED}/{uuid.uuid4().hex}"
            self._fs.makedirs(f"{self._path}/{_UNFINISHED}", exist_ok=True)
            self._fs.makedirs(f"{self._path}/{name}".rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(local), unfinished)
            self._fs.mv(unfinished, f"{self._path}/{name}")

    @contextmanager
    def trying(self, name: str) -> Iterator[int]:
        """Yields the number of tries that killed processes left unfinished; records this one during the block."""
        prefix = f"try-{name}-"
        earlier = sum(other.startswith(prefix) for other in self.names(_UNFINISHED))
        mark = f"{self._path}/{_UNFINISHED}/{prefix}{uuid.uuid4().hex}"
        with naming_full_disk(self.path(_UNFINISHED), _AGAIN):
            self._fs.makedirs(f"{self._path}/{_UNFINISHED}", exist_ok=True)
            self._fs.pipe_file(mark, b"")
        try:
            yield earlier
        finally:
            self._fs.rm_file(mark)

    def remove(self, name: str) -> None:
        """Removes a file."""
        self._fs.rm_file(f"{self._path}/{name}")

    def remove_unfinished(self) -> None:
        """Removes the incomplete files of killed processes."""
        self._fs.invalidate_cache()
        if self._fs.exists(f"{self._path}/{_UNFINISHED}"):
            self._fs.rm(f"{self._path}/{_UNFINISHED}", recursive=True)
