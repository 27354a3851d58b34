"""The whole network: body → necks → level maps → window norm → objectness and masks of windows (docs/network.md §1).

Letters: B images, H, W padded sides in pixels, h, w cells of a level, C channels, K windows of an image, S, P the
windows sampled for objectness and masks, N all windows of a padded image.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Real

from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import all_windows
from fastmask_jax.models.heads import MaskHead, ObjectnessHead
from fastmask_jax.models.neck import Neck
from fastmask_jax.models.norms import WindowNorm
from fastmask_jax.models.objectness_attention import ObjectnessAttention, attended
from fastmask_jax.models.padding import Size, mask_padding, valid_cells
from fastmask_jax.models.products import Dense
from fastmask_jax.models.windows import (
    extract_patches,
    flatten_levels,
    gather_windows,
    surround,
    window_cells,
)


class Sampled(NamedTuple):
    """Outputs for training; all float32."""

    levels: tuple[Float[Array, "B _h _w C"], ...]  # feature maps before the window norm
    scores: Float[Array, "B S"]  # objectness logits
    mask_logits: Float[Array, "B P 40 40"]
    attention: Float[Array, "B P 10 10"]  # logits
    objectness_attention: tuple[Float[Array, "B _rows _columns"], ...]  # logits of all windows; () without it


class Decoded(NamedTuple):
    """Proposals of each image, highest score first."""

    scores: Float[Array, "B K"]  # objectness probabilities; −1 where no (attended) window is left
    windows: Int[Array, "B K 3"]  # (level, i, j)
    mask_logits: Float[Array, "B K 40 40"]
    attention: Float[Array, "B K 10 10"]  # probabilities


class FastMask(nn.Module):
    """FastMask over any body.

    Attributes:
      body: a module of (image, size) → one feature map per stream, with `strides`, those of the streams. A body with a
        `fine_stride` accepts `fine=True` to also return the map before the streams.
      strides: strides of the levels, ascending; each is a stream's stride times a power of two, or the body's
        `fine_stride`.
      channels: C, channels of the level maps.
      neck, neck_hidden: see Neck.
      head, mask_width, mask_conv_width: see MaskHead.
      objectness_widths, dropout: see ObjectnessHead.
      objectness_attention_width: see ObjectnessAttention; 0: all windows are scored.
      attended_windows: with objectness attention, maximum number of windows per image scored in inference.
      norm_decay: see WindowNorm.
      train_form: how training builds its windows: "gather" copies the sampled ones, "patches" builds all of them.
      score_form: how all windows are scored, one of MAP_FORMS in models/windows.py; "auto" is the fastest one on each
        platform.
      axis_name: device axis of the window norm's moments in training.
      dtype: of the computation; parameters and results are float32.
    """

    body: nn.Module
    strides: tuple[int, ...] = (16, 24, 32, 48, 64, 96, 128)
    channels: int = 128
    neck: str = "residual"
    neck_hidden: int = 256
    head: str = "attentional"
    mask_width: int = 512
    mask_conv_width: int = 0
    objectness_widths: tuple[int, int] = (512, 1024)
    dropout: float = 0.5
    objectness_attention_width: int = 0
    attended_windows: int = 4096
    norm_decay: float = 0.999
    train_form: Literal["gather", "patches"] = "gather"
    score_form: Literal["auto", "fourier", "patches", "conv"] = "auto"
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self._neck = Neck(self.neck, self.neck_hidden, self.dtype, name="neck")  # the field `neck` has that name
        self.lateral = Dense(self.channels, dtype=self.dtype)
        self.lateral_fine = Dense(self.channels, dtype=self.dtype)
        self.objectness_attention = ObjectnessAttention(self.objectness_attention_width, self.dtype)
        self.window_norm = WindowNorm(self.norm_decay, self.axis_name)
        self.objectness = ObjectnessHead(self.objectness_widths, self.dropout, self.dtype)
        self.mask = MaskHead(self.head, self.mask_width, self.mask_conv_width, self.dtype)

    @property
    def fine_stride(self) -> int | None:
        """Stride of the level before the streams; None if there is no such level."""
        stride = getattr(self.body, "fine_stride", None)
        return stride if stride in self.strides and stride not in self.body.strides else None

    def levels(self, image: Real[Array, "B H W 3"], size: Size) -> tuple[Float[Array, "B _h _w C"], ...]:
        """Computes level maps in the order of `strides`, before the window norm, zero in the padding."""
        return self._reduced(self._features(image, size), size)

    def _features(self, image: jax.Array, size: Size) -> tuple[jax.Array, ...]:
        """Computes features of the levels in the order of `strides`, with the body's channels, zero in the padding."""
        if self.fine_stride is None:
            maps, streams = {}, self.body(image, size)
        else:
            fine, *streams = self.body(image, size, fine=True)
            maps = {self.fine_stride: fine}
        for base, x in zip(self.body.strides, streams, strict=True):
            stride = base
            reach = max((s for s in self.strides if s in chain_of(base, max(self.strides))), default=0)
            while stride <= reach:
                if stride in maps:
                    raise InvalidInput(
                        f"level {stride} of strides={self.strides} is reached by two streams of {self.body.strides}"
                    )
                if stride in self.strides:
                    maps[stride] = x
                if 2 * stride <= reach:
                    x = self._neck(x, size, stride)
                stride *= 2
        missing = sorted(set(self.strides) - set(maps))
        if missing:
            raise InvalidInput(
                f"levels {missing} of strides={self.strides} are not multiples of the streams' {self.body.strides} "
                "by powers of 2"
            )
        return tuple(maps[s] for s in self.strides)

    def _reduced(self, features: Sequence[jax.Array], size: Size) -> tuple[jax.Array, ...]:
        lateral = {self.fine_stride: self.lateral_fine}
        by_stride = zip(self.strides, features, strict=True)
        return tuple(mask_padding(lateral.get(s, self.lateral)(x), size, s) for s, x in by_stride)

    def _attention(self, features: Sequence[jax.Array], size: Size) -> tuple[jax.Array, ...]:
        if not self.objectness_attention_width:
            return ()
        return self.objectness_attention(features, size, self.strides)

    def __call__(
        self,
        image: Real[Array, "B H W 3"],
        size: Size,
        score_windows: Int[Array, "B S 3"],
        mask_windows: Int[Array, "B P 3"],
        *,
        train: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> Sampled:
        """Computes scores, attention and masks of selected windows.

        Args:
          image: resized RGB, 0 to 255, padded to a bucket; uint8 or float.
          size: resized (height, width) of each image, multiples of 4.
          score_windows, mask_windows: (level, i, j).
          train: normalize windows by the moments of this batch; otherwise by the stored ones.
          dropout_keys: [B] random keys, or None for no dropout.
        """
        features = self._features(image, size)
        levels = self._reduced(features, size)
        affine = self.window_norm(levels, size, self.strides, train)
        if self.train_form == "patches":
            dense = self._all_patches(levels, affine)
            score_at, mask_at = (_window_number(w, levels) for w in (score_windows, mask_windows))
            scored, masked = (_unflatten(dense, at, self.channels) for at in (score_at, mask_at))
        else:
            scored, masked = (self._gather(levels, affine, size, w) for w in (score_windows, mask_windows))
        scores = self.objectness(scored, dropout_keys=dropout_keys)
        mask_logits, attention = self.mask(masked)
        levels = tuple(x.astype(jnp.float32) for x in levels)
        return Sampled(levels, scores, mask_logits, attention, self._attention(features, size))

    def propose(self, image: Real[Array, "B H W 3"], size: Size, count: int) -> Decoded:
        """Decodes the `count` windows of highest objectness of each image, highest first.

        With objectness attention, only windows that it attends to are scored (see `attended`). Ties go to the earlier
        window (levels in the order of `strides`, row by row; with objectness attention the one of more attention).
        """
        features = self._features(image, size)
        levels = self._reduced(features, size)
        affine = self.window_norm(levels, size, self.strides, False)
        every = jnp.asarray(all_windows(image.shape[1], image.shape[2], self.strides))  # [N, 3]
        if values := self._attention(features, size):
            flat = jnp.concatenate([x.reshape(x.shape[0], -1) for x in values], axis=1)
            among, used = attended(flat, self.attended_windows)  # [B, k]
            logits = self.objectness(self._gather(levels, affine, size, every[among]))
            best, at = _top(jnp.where(used, logits, -jnp.inf), count)
            at = jnp.take_along_axis(among, jnp.minimum(at, among.shape[1] - 1), axis=1)
        else:
            best, at = _top(self.score_all(levels, affine, size), count)
        windows = jnp.where(jnp.isneginf(best)[..., None], 0, every[jnp.minimum(at, len(every) - 1)])
        mask_logits, attention = self.mask(self._gather(levels, affine, size, windows))
        scores = jnp.where(jnp.isneginf(best), -1.0, nn.sigmoid(best))
        return Decoded(scores, windows, mask_logits, nn.sigmoid(attention))

    def score_all(self, levels: Sequence[Float[Array, "B _h _w C"]], affine: tuple, size: Size) -> Float[Array, "B N"]:
        """Computes objectness logits of every window of the padded maps; −inf outside the image's own grid."""
        maps = [self._normalize(surround(x), affine) for x in levels]
        logits = self.objectness(maps, self.score_form)
        return jnp.where(self._existing(levels, size), logits, -jnp.inf)

    def _existing(self, levels: Sequence[jax.Array], size: Size) -> Bool[Array, "B N"]:
        """Returns whether each window of the padded maps belongs to the image."""
        inside = []
        for stride, x in zip(self.strides, levels, strict=True):
            own = valid_cells(size, stride) + 1
            i, j = jnp.arange(x.shape[1] + 1)[:, None], jnp.arange(x.shape[2] + 1)[None, :]
            level = (i < own[:, 0, None, None]) & (j < own[:, 1, None, None])
            inside.append(level.reshape(x.shape[0], -1))
        return jnp.concatenate(inside, axis=1)

    def _normalize(self, x: jax.Array, affine: tuple[jax.Array, jax.Array]) -> jax.Array:
        factor, shift = affine
        return (x * factor + shift).astype(self.dtype)

    def _gather(self, levels: Sequence[jax.Array], affine: tuple, size: Size, windows: jax.Array) -> jax.Array:
        cells = self._normalize(flatten_levels(levels), affine)  # also normalizes the zero cell
        index = window_cells(windows, size, self.strides, [x.shape[1:3] for x in levels])
        return gather_windows(cells, index)

    def _all_patches(self, levels: Sequence[jax.Array], affine: tuple) -> jax.Array:
        patches = [extract_patches(self._normalize(surround(x), affine)) for x in levels]
        return jnp.concatenate([p.reshape(p.shape[0], -1, p.shape[-1]) for p in patches], axis=1)  # [B, N, C * 100]


def chain_of(base: int, largest: int) -> list[int]:
    """Returns the strides that necks reach from a stream: base, 2 base, 4 base ... up to `largest`."""
    chain = [base]
    while chain[-1] * 2 <= largest:
        chain.append(chain[-1] * 2)
    return chain


def _top(logits: Float[Array, "B n"], count: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Returns the `count` largest values and their indices; −inf at indices beyond n if there are fewer."""
    lacking = max(count - logits.shape[1], 0)
    best, at = jax.lax.top_k(jnp.pad(logits, ((0, 0), (0, lacking)), constant_values=-jnp.inf), count)
    return best, at


def _window_number(windows: Int[Array, "B K 3"], levels: Sequence[jax.Array]) -> Int[Array, "B K"]:
    """Returns the index of windows among all windows of the padded maps."""
    counts, columns = zip(*(((x.shape[1] + 1) * (x.shape[2] + 1), x.shape[2] + 1) for x in levels), strict=True)
    starts = [sum(counts[:n]) for n in range(len(counts))]
    level = windows[..., 0]
    return jnp.asarray(starts)[level] + windows[..., 1] * jnp.asarray(columns)[level] + windows[..., 2]


def _unflatten(dense: Float[Array, "B N D"], at: Int[Array, "B K"], channels: int) -> Float[Array, "B K 10 10 C"]:
    chosen = jnp.take_along_axis(dense, at[..., None], axis=1)
    return jnp.moveaxis(chosen.reshape(*at.shape, channels, 10, 10), 2, -1)
