"""One image with its proposals, as every format's writer gets it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastmask_jax.inference.proposals import Proposals

LABEL = "object"  # proposals have no class; the formats want one


class AnnotatedImage(NamedTuple):
    """An image file and what was found in it.

    Attributes:
      image_id: whole number, different for each image.
      path: of the image file.
      name: path below the folder that the image was found in, without suffix; different for each image.
      proposals: of the image, best first.
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
