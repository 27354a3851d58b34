"""Depthwise convolutions, computed on the CPU as sums of shifted maps.

Letters: B images, N, M input rows and columns, h, w output rows and columns, C channels, k kernel side, s stride.

On the CPU, XLA computes a convolution with one group per channel scalar by scalar, and its gradients even more slowly.
Here each of the k * k taps is one multiply-add over whole maps, forward and backward (benchmarks/bodies.py). Other
devices use XLA's convolution.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class _Geometry(NamedTuple):
    """Geometry of a convolution on both axes: kernel side k, stride s, and zeros before the first row and column."""

    k: int
    stride: int
    begin: int


class Depthwise(nn.Module):
    """A depthwise k x k convolution without a bias.

    Attributes:
      k: kernel side, odd.
      stride: stride; the output has ceil(side / stride) cells.
      begin: zeros before the first row and column; as many as needed follow the last ones.
      dtype: dtype of the computation; the kernel is [k, k, C], float32.
    """

    k: int
    stride: int = 1
    begin: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N M C"]) -> Float[Array, "B h w C"]:
        """Maps [B, N, M, C] to [B, ceil(N / stride), ceil(M / stride), C]."""
        # Fan out of a depthwise kernel is k * k, which a variance-scaling initializer cannot tell from its shape.
        init = nn.initializers.normal(math.sqrt(2.0) / self.k)
        kernel = self.param("kernel", init, (self.k, self.k, x.shape[-1]), jnp.float32)
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.begin)


def depthwise(
    x: Float[Array, "B N M C"], kernel: Float[Array, "k k C"], stride: int, begin: int
) -> Float[Array, "B h w C"]:
    """Computes y[b, r, c] = Σ_ij x[b, s * r + i - begin, s * c + j - begin] * kernel[i, j], with zeros around x."""
    geometry = _Geometry(kernel.shape[0], stride, begin)
    return lax.platform_dependent(
        x, kernel, cpu=lambda *args: _shifted(*args, geometry), default=lambda *args: _grouped(*args, geometry)
    )


def _grouped(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    k, stride, begin = geometry
    padding = [(begin, _cells(side, stride) * stride - stride + k - begin - side) for side in x.shape[1:3]]
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    return _forward(x, kernel, geometry)[0]


def _forward(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> tuple[jax.Array, tuple]:
    k, stride, _ = geometry
    rows, columns = (_cells(side, stride) for side in x.shape[1:3])
    phases = _phases(x, geometry)
    y = sum(
        _shift(phases[i % stride][j % stride], i // stride, j // stride, rows, columns) * kernel[i, j]
        for i in range(k)
        for j in range(k)
    )
    return y, (x, kernel)


def _backward(geometry: _Geometry, saved: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dy = lax.optimization_barrier(dy)  # otherwise XLA fuses the computation of dy into every tap, k * k times
    return _input_gradient(kernel, dy, x.shape, geometry), _kernel_gradient(x, dy, geometry).astype(kernel.dtype)


_shifted.defvjp(_forward, _backward)


def _input_gradient(kernel: jax.Array, dy: jax.Array, shape: tuple[int, ...], geometry: _Geometry) -> jax.Array:
    """Computes the input gradient: each phase of x sums its own taps of shifted dy; then phases are interleaved."""
    k, stride, begin = geometry
    reach = (k - 1) // stride
    rows, columns = dy.shape[1] + reach, dy.shape[2] + reach
    dy = jnp.pad(dy, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

    def phase(a: int, b: int) -> jax.Array:
        taps = [(i, j) for i in range(a, k, stride) for j in range(b, k, stride)]
        starts = [(reach - i // stride, reach - j // stride) for i, j in taps]
        return sum(
            dy[:, top : top + rows, left : left + columns] * kernel[i, j]
            for (i, j), (top, left) in zip(taps, starts, strict=True)
        )

    dx = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], 3) for a in range(stride)], 2)
    dx = dx.reshape(shape[0], rows * stride, columns * stride, shape[-1])
    return dx[:, begin : begin + shape[1], begin : begin + shape[2]]


def _kernel_gradient(x: jax.Array, dy: jax.Array, geometry: _Geometry) -> jax.Array:
    """Computes the kernel gradient row by row, so that the k * k products of a row stay in the cache."""
    k, stride, _ = geometry
    phases = _phases(x, geometry)
    taps = [(i, j) for i in range(k) for j in range(k)]

    def add_row(row: jax.Array, sums: tuple) -> tuple:
        dy_row = lax.dynamic_index_in_dim(dy, row, 1, keepdims=False).astype(jnp.float32)  # [B, w, C]
        added = []
        for (i, j), total in zip(taps, sums, strict=True):
            x_row = lax.dynamic_index_in_dim(phases[i % stride][j % stride], row + i // stride, 1, keepdims=False)
            added.append(total + x_row[:, j // stride : j // stride + dy.shape[2]].astype(jnp.float32) * dy_row)
        return tuple(added)

    zeros = jnp.zeros((dy.shape[0], *dy.shape[2:]), jnp.float32)
    sums = lax.fori_loop(0, dy.shape[1], add_row, (zeros,) * len(taps))
    return jnp.stack([jnp.sum(total, (0, 1)) for total in sums]).reshape(k, k, -1)


def _phases(x: jax.Array, geometry: _Geometry) -> list[list[jax.Array]]:
    """Returns [a][b]: rows a, a + s, ... and columns b, b + s, ... of the zero-padded x."""
    k, stride, begin = geometry
    lengths = [(_cells(side, stride) + (k - 1) // stride) * stride for side in x.shape[1:3]]
    padding = [(begin, length - begin - side) for length, side in zip(lengths, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return [[x[:, a::stride, b::stride] for b in range(stride)] for a in range(stride)]


def _shift(x: jax.Array, row: int, column: int, rows: int, columns: int) -> jax.Array:
    return x[:, row : row + rows, column : column + columns]


def _cells(side: int, stride: int) -> int:
    return -(-side // stride)
