"""ResNet to its fourth stage, with the last stage run once for each stream on the same weights (spec section 1)."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from fastmask_jax.models.extent import Size, cut_to_extent
from fastmask_jax.models.norms import FrozenNorm
from fastmask_jax.models.pointwise import Pointwise

Flavour = Literal["caffe", "torchvision"]
_RGB_MEAN = (123.68, 116.779, 103.939)
_TORCHVISION_MEAN = (123.675, 116.28, 103.53)
_TORCHVISION_STD = (58.395, 57.12, 57.375)
_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut. The stride is an argument: the last stage runs at several.

    Attributes:
      width: channels of the 3x3 convolution; four times as many come out.
      project: whether the shortcut is a strided 1x1 convolution (the first block of a stage).
      flavour: "caffe" puts the stride on the first 1x1, "torchvision" on the 3x3.
      train_norms: whether gradients reach the norms' scales and biases.
    """

    width: int
    project: bool
    flavour: Flavour
    train_norms: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w Cin"], size: Size, at: int, step: int = 1
    ) -> Float[Array, "B h2 w2 Cout"]:
        """`x` lies at stride `at`, the result at `at * step`; cells beyond the image are not meaningful in either."""
        early, late = (step, 1) if self.flavour == "caffe" else (1, step)
        y = self._pointwise(self.width, early, "conv1")(x)
        y = nn.relu(self._norm("norm1")(y, size, at * early))
        y = cut_to_extent(y, size, at * early)
        y = nn.Conv(
            self.width,
            (3, 3),
            (late, late),
            padding=((1, 1), (1, 1)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_conv_init,
            name="conv2",
        )(y)
        y = nn.relu(self._norm("norm2")(y, size, at * step))
        y = self._norm("norm3")(self._pointwise(4 * self.width, 1, "conv3")(y), size, at * step)
        if self.project:
            x = self._pointwise(4 * self.width, step, "project")(x)
            x = self._norm("project_norm")(x, size, at * step)
        return nn.relu(x + y)

    def _pointwise(self, features: int, step: int, name: str) -> Pointwise:
        return Pointwise(features, step, use_bias=False, kernel_init=_conv_init, dtype=self.dtype, name=name)

    def _norm(self, name: str) -> FrozenNorm:
        return FrozenNorm(trained=self.train_norms, dtype=self.dtype, name=name)


class ResNet(nn.Module):
    """The body: one image, several streams of features.

    Attributes:
      width: channels of the stem; stages have 4, 8 and 16 times as many. 64 is ResNet-50's.
      depths: bottlenecks of stages 2, 3 and 4.
      middle_step: stride of stage 3 within the network: 2 as published; 1 doubles the resolution of all that follows.
      stream_steps: stride of stage 4 in each stream: (2, 3) gives strides 16 and 24, (2,) the one-stream network.
      flavour: which weights fit (spec section 1): "caffe" or "torchvision".
      train_norms: whether gradients reach the norms' scales and biases; the statistics stay frozen all the same.
      remat: recompute each block in the backward pass: less memory, a third more work.
      dtype: of the computation; parameters are float32.
    """

    width: int = 64
    depths: tuple[int, int, int] = (3, 4, 6)
    middle_step: int = 2
    stream_steps: tuple[int, ...] = (2, 3)
    flavour: Flavour = "caffe"
    train_norms: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the streams, in resized pixels."""
        return tuple(4 * self.middle_step * step for step in self.stream_steps)

    @nn.compact
    def __call__(self, image: Real[Array, "B H W 3"], size: Size) -> tuple[Float[Array, "B _h _w Cout"], ...]:
        """Features of each stream, zero beyond each image's extent.

        Args:
          image: resized RGB, 0 to 255, H and W multiples of 4; what lies beyond `size` is not looked at.
          size: resized (height, width) of each image in pixels, multiples of 4.
        """
        x = cut_to_extent(self._normalise(image), size, 1).astype(self.dtype)
        x = nn.Conv(
            self.width,
            (7, 7),
            (2, 2),
            padding=((3, 3), (3, 3)),
            use_bias=self.flavour == "caffe",
            dtype=self.dtype,
            kernel_init=_conv_init,
            name="stem",
        )(x)
        x = nn.relu(FrozenNorm(self.train_norms, self.dtype, name="stem_norm")(x, size, 2))
        # After a ReLU, zeros beyond the image never win a maximum: they pad as nothing does.
        x = cut_to_extent(x, size, 2)
        pad = (0, 1) if self.flavour == "caffe" else (1, 1)
        x = nn.max_pool(x, (3, 3), (2, 2), (pad, pad))

        for block in self._stage(2):
            x = block(x, size, 4, 1)  # remat wants its static arguments in place
        at = 4
        for n, block in enumerate(self._stage(3)):
            step = self.middle_step if n == 0 else 1
            x, at = block(x, size, at, step), at * step
        last = self._stage(4)
        streams = []
        for first_step in self.stream_steps:
            y, y_at = x, at
            for n, block in enumerate(last):
                step = first_step if n == 0 else 1
                y, y_at = block(y, size, y_at, step), y_at * step
            streams.append(cut_to_extent(y, size, y_at))
        return tuple(streams)

    def _stage(self, stage: int) -> list[Bottleneck]:
        kind = nn.remat(Bottleneck, static_argnums=(3, 4)) if self.remat else Bottleneck
        return [
            kind(
                width=self.width * 2 ** (stage - 2),
                project=n == 0,
                flavour=self.flavour,
                train_norms=self.train_norms,
                dtype=self.dtype,
                name=f"stage{stage}_block{n + 1}",
            )
            for n in range(self.depths[stage - 2])
        ]

    def _normalise(self, image: jax.Array) -> jax.Array:
        image = image.astype(jnp.float32)
        if self.flavour == "caffe":
            return image - jnp.asarray(_RGB_MEAN)
        return (image - jnp.asarray(_TORCHVISION_MEAN)) / jnp.asarray(_TORCHVISION_STD)
