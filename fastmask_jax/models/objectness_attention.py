"""Scale-specific objectness attention: which windows of a level are worth scoring (docs/network.md §5).

Wilms, Frintrop, "AttentionMask", ACCV 2018. This is a cheap first stage before the window norm and the heads: two
convolutions per level compute one value for each window of the level.

Letters: B images, h, w cells of a level, C channels of its features, N all windows of a padded image, k windows kept.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from fastmask_jax.models.padding import Size, mask_padding, valid_mask

_conv_init = nn.initializers.normal(0.01)


class ObjectnessAttention(nn.Module):
    """Two convolutions for each level: 3x3 to `width`, ReLU, 4x4 with padding 2 to "no object" and "object".

    The 4x4 kernel turns an h x w map into (h + 1) x (w + 1) values. Value (i, j) sees rows i - 2 ... i + 1 and columns
    j - 2 ... j + 1 of the hidden map: the middle of window (i, j).

    Attributes:
      width: hidden channels.
      dtype: of the computation; logits are float32.
    """

    width: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Sequence[Float[Array, "B _h _w _C"]], size: Size, strides: Sequence[int]
    ) -> tuple[Float[Array, "B _rows _columns"], ...]:
        """Computes a logit of "object" against "no object" for each window; −inf for windows outside the image's grid.

        Args:
          features: maps of the levels before their 1x1 convolution, zero in the padding.
          size: resized image sizes in pixels.
          strides: strides of the levels.
        """
        logits = []
        for stride, x in zip(strides, features, strict=True):
            y = nn.relu(self._conv(self.width, 3, 1, nn.initializers.zeros, f"level{stride}_conv1")(x))
            y = mask_padding(y, size, stride)
            y = self._conv(2, 4, 2, nn.initializers.constant(0.5), f"level{stride}_conv2")(y).astype(jnp.float32)
            own = valid_mask(size + stride, stride, *y.shape[1:3])  # one more window than cells along each axis
            logits.append(jnp.where(own, y[..., 1] - y[..., 0], -jnp.inf))
        return tuple(logits)

    def _conv(self, features: int, side: int, padding: int, bias: nn.initializers.Initializer, name: str) -> nn.Conv:
        return nn.Conv(
            features, (side, side), padding=padding, dtype=self.dtype, kernel_init=_conv_init, bias_init=bias, name=name
        )


def attended(logits: Float[Array, "B N"], count: int) -> tuple[Int[Array, "B k"], Bool[Array, "B k"]]:
    """Selects the windows to score: those with attention above ½, or the best one if there are none.

    Shapes are static, so the `count` windows of highest attention are returned with a flag. Ties go to the earlier
    window.

    Args:
      logits: attention of every window; −inf for windows that do not exist.
      count: k; if there are fewer windows, k is N.

    Returns:
      (indices among the N windows in order of decreasing attention, whether each is to be scored).
    """
    best, at = jax.lax.top_k(logits, min(count, logits.shape[1]))
    return at, (best > 0) | (jnp.arange(best.shape[1]) == 0)
