"""EfficientNet-Lite to its fifth stage; the last two stages run once per stream with shared weights.

Tan, Le, "EfficientNet", ICML 2019; the lite variants have no squeeze-and-excitation, and ReLU6 instead of swish.
ImageNet weights expect the input (RGB − 127) / 128 and a norm epsilon of 1e-3.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from fastmask_jax.errors import InvalidInput
from fastmask_jax.models.depthwise import Depthwise
from fastmask_jax.models.norms import FrozenNorm
from fastmask_jax.models.padding import Size, mask_padding
from fastmask_jax.models.products import Dense

KERNELS = (3, 3, 5, 3, 5, 5, 3)  # depthwise kernel size of each stage
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # strides within each stage
STREAM_STAGE = 4  # runs once per stream, with the stream's stride
_EXPANSION = 6  # in all stages except the first, which has none
_EPSILON = 1e-3
_MEAN, _STD = 127.0, 128.0
_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Clips `x` to 0 ... 6."""
    return lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype))


class MBConv(nn.Module):
    """An inverted bottleneck: 1x1 expansion, depthwise k x k, 1x1 projection without activation.

    Attributes:
      features: output channels.
      expansion: ratio of hidden to input channels; 1: without the first 1x1.
      k: side of the depthwise kernel.
      train_norms: whether gradients reach the norms' scales and biases.
    """

    features: int
    expansion: int
    k: int
    train_norms: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w Cin"], size: Size, input_stride: int, stride: int = 1, begin: int = 1
    ) -> Float[Array, "B h2 w2 Cout"]:
        """Maps `x` at `input_stride` to `input_stride * stride`; the padding of both is undefined.

        The depthwise convolution is padded by `begin` zeros before the first row and column.
        """
        y = x
        if self.expansion > 1:
            y = self._pointwise(self.expansion * x.shape[-1], "expand")(y)
            y = relu6(self._norm("expand_norm")(y, size, input_stride))
        y = Depthwise(self.k, stride, begin, self.dtype, name="depthwise")(mask_padding(y, size, input_stride))
        y = relu6(self._norm("depthwise_norm")(y, size, input_stride * stride))
        y = self._norm("project_norm")(self._pointwise(self.features, "project")(y), size, input_stride * stride)
        return x + y if stride == 1 and x.shape[-1] == self.features else y

    def _pointwise(self, features: int, name: str) -> Dense:
        return Dense(features, use_bias=False, kernel_init=_conv_init, dtype=self.dtype, name=name)

    def _norm(self, name: str) -> FrozenNorm:
        return FrozenNorm(self.train_norms, self.dtype, _EPSILON, name=name)


class EfficientNetLite(nn.Module):
    """A body that computes several streams of features from one image.

    The output of a stage has few channels of both signs, half of which a neck's ReLU would discard. The features are
    therefore those of the activated 1x1 convolution that follows in the classifier: the first of stage 6 for five
    stages, the last one for seven.

    Alignment. A convolution of kernel k and stride s starts (k - s) // 2 cells before its map, for every side. For
    sides divisible by s this is TensorFlow's "SAME", with which the weights were trained; unlike "SAME" it does not
    shift for other sides, so the features of an image do not depend on its padding. Each halving shifts cell centers by
    half a cell (of the finer map) right and down, 7.5 pixels at stride 16, and windows would not be centered on what
    they show. The strided convolution of the streams starts (k - s + 1) // 2 cells before its map instead, which is
    equivalent to shifting the image by a cell of stride 8. Centers are then off by -0.5 pixels at stride 16 and by 3.5
    at stride 24, and by 3.5 at stride 8, before the streams.

    Attributes:
      channels: output channels of the stem and of each stage, the first five stages or all seven.
      depths: blocks of each stage.
      features: output channels.
      stream_strides: stride of stage 4 in each stream: (2, 3) gives strides 16 and 24, (2,) the one-stream network.
      train_norms: whether gradients reach the norms' scales and biases; the statistics stay frozen all the same.
      remat: recompute each block in the backward pass: less memory, a third more work.
      dtype: of the computation; parameters are float32.
    """

    channels: tuple[int, ...] = (32, 16, 24, 40, 80, 112)
    depths: tuple[int, ...] = (1, 2, 2, 3, 3)
    features: int = 672
    stream_strides: tuple[int, ...] = (2, 3)
    train_norms: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def fine_stride(self) -> int:
        """Stride of the stage before the streams."""
        return 2 * math.prod(STRIDES[: STREAM_STAGE - 1])

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the streams, in resized pixels."""
        strides = enumerate(STRIDES[: len(self.depths)], 1)
        others = math.prod(stride for stage, stride in strides if stage != STREAM_STAGE)
        return tuple(2 * others * stride for stride in self.stream_strides)

    @nn.compact
    def __call__(
        self, image: Real[Array, "B H W 3"], size: Size, fine: bool = False
    ) -> tuple[Float[Array, "B _h _w _Cout"], ...]:
        """Computes the features of each stream, nonnegative, zero in the padding.

        Args:
          image: resized RGB, 0 to 255, H and W multiples of 4; pixels beyond `size` are ignored.
          size: resized (height, width) of each image in pixels, multiples of 4.
          fine: return the output of stage 3 (its few channels, of both signs), at `fine_stride`, before the streams.

        Raises:
          ValueError: `channels` and `depths` do not name the same stages.
        """
        stages = len(self.depths)
        if len(self.channels) != stages + 1 or not STREAM_STAGE <= stages <= len(KERNELS):
            raise InvalidInput(
                f"model.body.channels={self.channels} must be the stem's and one for each of the "
                f"{STREAM_STAGE} to {len(KERNELS)} stages of model.body.depths={self.depths}"
            )
        x = (image.astype(jnp.float32) - _MEAN) / _STD
        x = mask_padding(x, size, 1).astype(self.dtype)
        x = nn.Conv(
            self.channels[0],
            (3, 3),
            (2, 2),
            padding=((0, 1), (0, 1)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_conv_init,
            name="stem",
        )(x)
        x, input_stride = relu6(self._norm("stem_norm")(x, size, 2)), 2
        blocks = [self._stage(stage) for stage in range(1, stages + 1)]
        for stage in range(1, STREAM_STAGE):
            x, input_stride = _run(blocks[stage - 1], x, size, input_stride, STRIDES[stage - 1])
        last = Dense(self.features, use_bias=False, kernel_init=_conv_init, dtype=self.dtype, name="last")
        last_norm = self._norm("last_norm")
        streams = [mask_padding(x, size, input_stride)] if fine else []
        for stride in self.stream_strides:
            y, y_stride = _run(blocks[STREAM_STAGE - 1], x, size, input_stride, stride, centered=True)
            for stage in range(STREAM_STAGE + 1, stages + 1):
                y, y_stride = _run(blocks[stage - 1], y, size, y_stride, STRIDES[stage - 1])
            y = relu6(last_norm(last(y), size, y_stride))
            streams.append(mask_padding(y, size, y_stride))
        return tuple(streams)

    def _stage(self, stage: int) -> list[MBConv]:
        kind = nn.remat(MBConv, static_argnums=(3, 4, 5)) if self.remat else MBConv
        return [
            kind(
                features=self.channels[stage],
                expansion=1 if stage == 1 else _EXPANSION,
                k=KERNELS[stage - 1],
                train_norms=self.train_norms,
                dtype=self.dtype,
                name=f"stage{stage}_block{n + 1}",
            )
            for n in range(self.depths[stage - 1])
        ]

    def _norm(self, name: str) -> FrozenNorm:
        return FrozenNorm(self.train_norms, self.dtype, _EPSILON, name=name)


def _run(
    blocks: list[MBConv], x: jax.Array, size: Size, input_stride: int, stride: int, centered: bool = False
) -> tuple[jax.Array, int]:
    """Runs a stage, with the stride on its first block; returns its output and the output's stride."""
    for block in blocks:
        begin = (block.k - stride + centered) // 2
        x = block(x, size, input_stride, stride, begin)  # remat needs positional static arguments
        input_stride *= stride
        stride, centered = 1, False
    return x, input_stride
