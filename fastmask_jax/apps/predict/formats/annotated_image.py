"""An image with its proposals, the input of every format."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastmask_jax.inference.proposals import Proposals

LABEL = "object"  # proposals have no class, but the formats need one


class AnnotatedImage(NamedTuple):
    """An image file and its proposals.

    Attributes:
      image_id: an integer, unique among the images.
      path: path of the image file.
      name: path below the folder in which the image was found, without suffix; unique among the images.
      proposals: proposals of the image, best first.
    """

    image_id: int
    path: Path
    name: str
    proposals: Proposals

    @property
    def file_name(self) -> str:
        """Path of the image below the folder it was found in, with suffix and forward slashes."""
        return Path(*self.path.parts[-len(Path(self.name).parts) :]).as_posix()


Write = Callable[[AnnotatedImage], None]
