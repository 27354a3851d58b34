"""Defines inputs and outputs of an exported network, the same in every format.

    (image float32[B, H, W, 3], size int32[B, 2]) → (scores float32[B, K], windows int32[B, K, 3],
                                                     masks float32[B, K, 160, 160])

`image` holds resized RGB images, 0 to 255, padded at the bottom and right to H x W; `size` their (height, width).
`masks` are probabilities in the window. The rest is as in `models.fastmask.Decoded`.

Letters: B images of a batch, H, W padded sides in pixels, K windows of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fastmask_jax.config_schema import MOST_IMAGES, MOST_LONG_EDGE, MOST_PROPOSALS
from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import FINE_MASK, MULTIPLE
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.heads import upscale

INPUTS = ("image", "size")
OUTPUTS = ("scores", "windows", "masks")

Proposed = tuple[Float[Array, "B K"], Int[Array, "B K 3"], Float[Array, "B K 160 160"]]


@dataclass(frozen=True)
class ExportSpec:
    """The sizes for which a network is exported.

    Attributes:
      height, width: H, W; multiples of 4.
      batch: B; None: any number of images.
      proposals: K.
      long_edge: pixels to which the long edge of an image is resized.
      mask_threshold: probability at and above which a pixel belongs to a mask.

    Raises:
      ValueError: a number out of its range, or no image of that long edge fits; one line.
    """

    height: int
    width: int
    batch: int | None
    proposals: int
    long_edge: int
    mask_threshold: float

    def __post_init__(self) -> None:
        if min(self.height, self.width) < MULTIPLE or self.height % MULTIPLE or self.width % MULTIPLE:
            raise InvalidInput(f"--size {self.height}x{self.width}: both sides must be multiples of {MULTIPLE}")
        longest = max(self.height, self.width)
        if longest > MOST_LONG_EDGE:
            raise InvalidInput(f"--size {self.height}x{self.width}: at most {MOST_LONG_EDGE} pixels a side")
        if self.batch is not None and not 1 <= self.batch <= MOST_IMAGES:
            raise InvalidInput(f"--batch {self.batch}: 1 to {MOST_IMAGES}, or any")
        if not 1 <= self.proposals <= MOST_PROPOSALS:
            raise InvalidInput(f"--proposals {self.proposals}: 1 to {MOST_PROPOSALS}")
        if self.long_edge // MULTIPLE * MULTIPLE > longest:
            raise InvalidInput(
                f"--size {self.height}x{self.width}: smaller than images of long edge {self.long_edge}; give a larger "
                f"one, or --config.evaluation.long_edges={longest}"
            )

    def description(self, strides: Sequence[int]) -> dict[str, Any]:
        """Returns what a program needs besides the network (docs/export.md), JSON-serializable."""
        return {
            "padded_size": [self.height, self.width],
            "batch": self.batch,
            "proposals": self.proposals,
            "long_edge": self.long_edge,
            "side_multiple": MULTIPLE,
            "strides": list(strides),
            "mask_side": FINE_MASK,
            "mask_threshold": self.mask_threshold,
        }


def propose(model: FastMask, count: int, variables: Mapping[str, Any], image: jax.Array, size: jax.Array) -> Proposed:
    """Computes (scores, windows, masks) of a batch, as above; `count` is K."""
    found = model.apply(variables, image, size, count, method="propose")
    return found.scores, found.windows, nn.sigmoid(upscale(found.mask_logits))
