"""The two heads over a window: objectness, and the attentional (or standard) mask head (docs/network.md §1).

Letters: B images, K windows per image, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fastmask_jax.geometry import MASK, WINDOW, upscale_matrix
from fastmask_jax.models.norms import FrozenNorm
from fastmask_jax.models.products import Conv3x3, Dense
from fastmask_jax.models.windows import WindowDense

_CELL = MASK // WINDOW  # mask logits along a cell
_fc_init = nn.initializers.he_normal()


class ObjectnessHead(nn.Module):
    """Predicts one logit per window: FC 512, ReLU, dropout; FC 1024, ReLU; FC 1.

    Attributes:
      widths: widths of the two hidden layers.
      dropout: rate after the first.
      dtype: dtype of the computation; logits are float32.
    """

    widths: tuple[int, int] = (512, 1024)
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        windows: Float[Array, "B K 10 10 C"] | Sequence[Float[Array, "B _H _W C"]],
        map_form: str | None = None,
        dropout_keys: jax.Array | None = None,
    ) -> Float[Array, "B K"]:
        """Computes logits of windows, or of every window inside zero-padded maps: see WindowDense.

        Args:
          windows: windows; or, with `map_form`, maps.
          map_form: one of MAP_FORMS.
          dropout_keys: [B] keys, one per image, or None: no dropout. With one key per image, the noise does not
            depend on how a batch is split over devices.
        """
        layer = WindowDense(self.widths[0], dtype=self.dtype, name="fc1")
        x = nn.relu(layer(windows) if map_form is None else layer.over_maps(windows, map_form))
        if dropout_keys is not None and self.dropout > 0:
            keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.dropout, x.shape[1:]))(dropout_keys)
            x = jnp.where(keep, x / (1 - self.dropout), 0).astype(self.dtype)
        x = nn.relu(Dense(self.widths[1], kernel_init=_fc_init, dtype=self.dtype, name="fc2")(x))
        logit = Dense(1, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name="score")(x)
        return logit[..., 0].astype(jnp.float32)


class MaskHead(nn.Module):
    """Predicts 40x40 mask logits and 10x10 attention logits of a window.

    With `conv_width`, a convolutional branch adds detail to the fully connected one: 1x1 to `conv_width` channels and
    two 3x3 convolutions on the window's 10x10 cells, then 4x4 logits from each cell. It starts at zero.

    Attributes:
      kind: "attentional" multiplies the sigmoid of the attention into every channel first; "standard" has
        no attention.
      width: width of the hidden layer (no bias, frozen norm, no ReLU).
      conv_width: channels of the convolutional branch; 0: no branch, as in the paper.
      dtype: dtype of the computation; logits are float32.
    """

    kind: str = "attentional"
    width: int = 512
    conv_width: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, windows: Float[Array, "B K 10 10 C"]
    ) -> tuple[Float[Array, "B K 40 40"], Float[Array, "B K 10 10"]]:
        """Returns (mask logits, attention logits); the attention logits of the standard head are zeros."""
        attention = jnp.zeros(windows.shape[:-1], jnp.float32)
        if self.kind == "attentional":
            attention = WindowDense(WINDOW**2, dtype=self.dtype, name="attention")(windows)
            attention = attention.reshape(windows.shape[:-1]).astype(jnp.float32)
            windows = windows * nn.sigmoid(attention)[..., None].astype(self.dtype)
        x = WindowDense(self.width, use_bias=False, dtype=self.dtype, name="fc1")(windows)
        x = FrozenNorm(trained=True, dtype=self.dtype, name="norm")(x)
        x = Dense(MASK**2, kernel_init=nn.initializers.lecun_normal(), dtype=self.dtype, name="fc2")(x)
        x = x.reshape(*x.shape[:-1], MASK, MASK)
        if self.conv_width:
            x += self._detail(windows)
        return x.astype(jnp.float32), attention

    def _detail(self, windows: Float[Array, "B K 10 10 C"]) -> Float[Array, "B K 40 40"]:
        cells = windows.reshape(-1, WINDOW, WINDOW, windows.shape[-1])
        y = nn.relu(Dense(self.conv_width, dtype=self.dtype, name="detail_reduce")(cells))
        for n in (1, 2):
            conv = Conv3x3(self.conv_width, kernel_init=_fc_init, dtype=self.dtype, name=f"detail_conv{n}")
            y = nn.relu(conv(y))
        zeros = nn.initializers.zeros
        y = Dense(_CELL**2, kernel_init=zeros, dtype=self.dtype, name="detail_logits")(y)
        y = y.reshape(-1, WINDOW, WINDOW, _CELL, _CELL).swapaxes(2, 3)  # [B * K, row, row in the cell, column, ...]
        return y.reshape(*windows.shape[:2], MASK, MASK)


def upscale(logits: Float[Array, "... 40 40"]) -> Float[Array, "... 160 160"]:
    """Upsamples mask logits (docs/network.md §1) by two small matrix products."""
    up = jnp.asarray(upscale_matrix())
    return jnp.einsum("...ij,yi,xj->...yx", logits, up, up, precision=jax.lax.Precision.HIGHEST)
