"""ResNet to its fourth stage; the last stage runs once per stream with shared weights (docs/network.md §1)."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from fastmask_jax.models.norms import FrozenNorm
from fastmask_jax.models.padding import Size, mask_padding, max_pool3
from fastmask_jax.models.products import Conv3x3, Dense

Flavor = Literal["caffe", "torchvision"]
_RGB_MEAN = (123.68, 116.779, 103.939)
_TORCHVISION_MEAN = (123.675, 116.28, 103.53)
_TORCHVISION_STD = (58.395, 57.12, 57.375)
_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut. The stride is an argument: the last stage runs at several.

    Attributes:
      width: channels of the 3x3 convolution; the output has four times as many.
      project: whether the shortcut is a strided 1x1 convolution (the first block of a stage).
      flavor: "caffe" puts the stride on the first 1x1, "torchvision" on the 3x3.
      train_norms: whether gradients reach the norms' scales and biases.
    """

    width: int
    project: bool
    flavor: Flavor
    train_norms: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w Cin"], size: Size, input_stride: int, stride: int = 1
    ) -> Float[Array, "B h2 w2 Cout"]:
        """Maps `x` at `input_stride` to `input_stride * stride`; the padding of both is undefined."""
        early, late = (stride, 1) if self.flavor == "caffe" else (1, stride)
        y = self._pointwise(self.width, early, "conv1")(x)
        y = nn.relu(self._norm("norm1")(y, size, input_stride * early))
        y = mask_padding(y, size, input_stride * early)
        y = Conv3x3(self.width, late, use_bias=False, kernel_init=_conv_init, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(self._norm("norm2")(y, size, input_stride * stride))
        y = self._norm("norm3")(self._pointwise(4 * self.width, 1, "conv3")(y), size, input_stride * stride)
        if self.project:
            x = self._pointwise(4 * self.width, stride, "project")(x)
            x = self._norm("project_norm")(x, size, input_stride * stride)
        return nn.relu(x + y)

    def _pointwise(self, features: int, stride: int, name: str) -> Dense:
        return Dense(features, stride, use_bias=False, kernel_init=_conv_init, dtype=self.dtype, name=name)

    def _norm(self, name: str) -> FrozenNorm:
        return FrozenNorm(trained=self.train_norms, dtype=self.dtype, name=name)


class ResNet(nn.Module):
    """A body that computes several streams of features from one image.

    Attributes:
      width: channels of the stem; stages have 4, 8 and 16 times as many. 64 is ResNet-50's.
      depths: bottlenecks of stages 2, 3 and 4.
      middle_stride: stride of stage 3 within the network: 2 as published; 1 doubles the resolution of all that follows.
      stream_strides: stride of stage 4 in each stream: (2, 3) gives strides 16 and 24, (2,) the one-stream network.
      flavor: which weights fit (docs/network.md §1): "caffe" or "torchvision".
      train_norms: whether gradients reach the norms' scales and biases; the statistics stay frozen all the same.
      remat: recompute each block in the backward pass: less memory, a third more work.
      dtype: of the computation; parameters are float32.
    """

    width: int = 64
    depths: tuple[int, int, int] = (3, 4, 6)
    middle_stride: int = 2
    stream_strides: tuple[int, ...] = (2, 3)
    flavor: Flavor = "caffe"
    train_norms: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the streams, in resized pixels."""
        return tuple(self.fine_stride * stride for stride in self.stream_strides)

    @property
    def fine_stride(self) -> int:
        """Stride of the stage before the streams."""
        return 4 * self.middle_stride

    @nn.compact
    def __call__(
        self, image: Real[Array, "B H W 3"], size: Size, fine: bool = False
    ) -> tuple[Float[Array, "B _h _w _Cout"], ...]:
        """Computes the features of each stream, zero in the padding.

        Args:
          image: resized RGB, 0 to 255, H and W multiples of 4; pixels beyond `size` are ignored.
          size: resized (height, width) of each image in pixels, multiples of 4.
          fine: return the output of stage 3, at `fine_stride`, before the streams.
        """
        x = mask_padding(self._normalize(image), size, 1).astype(self.dtype)
        x = nn.Conv(
            self.width,
            (7, 7),
            (2, 2),
            padding=((3, 3), (3, 3)),
            use_bias=self.flavor == "caffe",
            dtype=self.dtype,
            kernel_init=_conv_init,
            name="stem",
        )(x)
        x = nn.relu(FrozenNorm(self.train_norms, self.dtype, name="stem_norm")(x, size, 2))
        # After a ReLU, zeros beyond the image never win a maximum, so they have no effect.
        x = max_pool3(mask_padding(x, size, 2), begin=0 if self.flavor == "caffe" else 1)

        for block in self._stage(2):
            x = block(x, size, 4, 1)  # remat needs positional static arguments
        input_stride = 4
        for n, block in enumerate(self._stage(3)):
            stride = self.middle_stride if n == 0 else 1
            x, input_stride = block(x, size, input_stride, stride), input_stride * stride
        last = self._stage(4)
        streams = [mask_padding(x, size, input_stride)] if fine else []
        for first_stride in self.stream_strides:
            y, y_stride = x, input_stride
            for n, block in enumerate(last):
                stride = first_stride if n == 0 else 1
                y, y_stride = block(y, size, y_stride, stride), y_stride * stride
            streams.append(mask_padding(y, size, y_stride))
        return tuple(streams)

    def _stage(self, stage: int) -> list[Bottleneck]:
        kind = nn.remat(Bottleneck, static_argnums=(3, 4)) if self.remat else Bottleneck
        return [
            kind(
                width=self.width * 2 ** (stage - 2),
                project=n == 0,
                flavor=self.flavor,
                train_norms=self.train_norms,
                dtype=self.dtype,
                name=f"stage{stage}_block{n + 1}",
            )
            for n in range(self.depths[stage - 2])
        ]

    def _normalize(self, image: jax.Array) -> jax.Array:
        image = image.astype(jnp.float32)
        if self.flavor == "caffe":
            return image - jnp.asarray(_RGB_MEAN)
        return (image - jnp.asarray(_TORCHVISION_MEAN)) / jnp.asarray(_TORCHVISION_STD)
