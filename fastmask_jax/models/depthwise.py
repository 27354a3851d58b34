"""Depthwise convolutions, on the CPU as sums of shifted maps.

Letters: B images, N, M rows and columns in, h, w rows and columns out, C channels, k side of the kernel, s step.

XLA's CPU runs a convolution with one group a channel scalar by scalar, and its gradients worse still. Here each of the
k * k taps is one multiply-add over whole maps, forward and backward (benchmarks/bodies.py). Other devices keep XLA's.
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
    """Of a convolution along both axes: kernel k, step s, and the zeros before the first row and column."""

    k: int
    step: int
    begin: int


class Depthwise(nn.Module):
    """A k x k convolution of every channel by itself, without a bias.

    Attributes:
      k: odd side of the kernel.
      step: stride; ceil(side / step) cells come out.
      begin: zeros before the first row and column; as many as needed follow the last ones.
      dtype: of the computation; the kernel is [k, k, C], float32.
    """

    k: int
    step: int = 1
    begin: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N M C"]) -> Float[Array, "B h w C"]:
        """[B, N, M, C] → [B, ceil(N / step), ceil(M / step), C]."""
        # Fan out of a depthwise kernel is k * k, which a variance-scaling initialiser cannot tell from its shape.
        init = nn.initializers.normal(math.sqrt(2.0) / self.k)
        kernel = self.param("kernel", init, (self.k, self.k, x.shape[-1]), jnp.float32)
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.step, self.begin)


def depthwise(
    x: Float[Array, "B N M C"], kernel: Float[Array, "k k C"], step: int, begin: int
) -> Float[Array, "B h w C"]:
    """y[b, r, c] = Σ over i, j of x[b, step * r + i - begin, step * c + j - begin] * kernel[i, j], zeros around x."""
    geometry = _Geometry(kernel.shape[0], step, begin)
    return lax.platform_dependent(
        x, kernel, cpu=lambda *args: _shifted(*args, geometry), default=lambda *args: _grouped(*args, geometry)
    )


def _grouped(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    k, step, begin = geometry
    padding = [(begin, _cells(side, step) * step - step + k - begin - side) for side in x.shape[1:3]]
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (step, step),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    return _forward(x, kernel, geometry)[0]


def _forward(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> tuple[jax.Array, tuple]:
    k, step, _ = geometry
    rows, columns = (_cells(side, step) for side in x.shape[1:3])
    phases = _phases(x, geometry)
    y = sum(
        phases[i % step][j % step][:, i // step : i // step + rows, j // step : j // step + columns] * kernel[i, j]
        for i in range(k)
        for j in range(k)
    )
    return y, (x, kernel)


def _backward(geometry: _Geometry, saved: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dy = lax.optimization_barrier(dy)  # else what makes dy is fused into every tap, and done k * k times
    return _input_gradient(kernel, dy, x.shape, geometry), _kernel_gradient(x, dy, geometry).astype(kernel.dtype)


_shifted.defvjp(_forward, _backward)


def _input_gradient(kernel: jax.Array, dy: jax.Array, shape: tuple[int, ...], geometry: _Geometry) -> jax.Array:
    """Each phase of x has taps of its own: the sum of as many shifted dy; then the phases are interleaved."""
    k, step, begin = geometry
    reach = (k - 1) // step
    rows, columns = dy.shape[1] + reach, dy.shape[2] + reach
    dy = jnp.pad(dy, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

    def phase(a: int, b: int) -> jax.Array:
        taps = [(i, j) for i in range(a, k, step) for j in range(b, k, step)]
        starts = [(reach - i // step, reach - j // step) for i, j in taps]
        return sum(
            dy[:, top : top + rows, left : left + columns] * kernel[i, j]
            for (i, j), (top, left) in zip(taps, starts, strict=True)
        )

    dx = jnp.stack([jnp.stack([phase(a, b) for b in range(step)], 3) for a in range(step)], 2)
    dx = dx.reshape(shape[0], rows * step, columns * step, shape[-1])
    return dx[:, begin : begin + shape[1], begin : begin + shape[2]]


def _kernel_gradient(x: jax.Array, dy: jax.Array, geometry: _Geometry) -> jax.Array:
    """Row by row: a row's k * k products stay in the cache, where one sum a tap would read both maps k * k times."""
    k, step, _ = geometry
    phases = _phases(x, geometry)
    taps = [(i, j) for i in range(k) for j in range(k)]

    def add_row(row: jax.Array, sums: tuple) -> tuple:
        dy_row = lax.dynamic_index_in_dim(dy, row, 1, keepdims=False).astype(jnp.float32)  # [B, w, C]
        added = []
        for (i, j), total in zip(taps, sums, strict=True):
            x_row = lax.dynamic_index_in_dim(phases[i % step][j % step], row + i // step, 1, keepdims=False)
            added.append(total + x_row[:, j // step : j // step + dy.shape[2]].astype(jnp.float32) * dy_row)
        return tuple(added)

    zeros = jnp.zeros((dy.shape[0], *dy.shape[2:]), jnp.float32)
    sums = lax.fori_loop(0, dy.shape[1], add_row, (zeros,) * len(taps))
    return jnp.stack([jnp.sum(total, (0, 1)) for total in sums]).reshape(k, k, -1)


def _phases(x: jax.Array, geometry: _Geometry) -> list[list[jax.Array]]:
    """[a][b]: rows a, a + s, ... and columns b, b + s, ... of x with its zeros around it."""
    k, step, begin = geometry
    lengths = [(_cells(side, step) + (k - 1) // step) * step for side in x.shape[1:3]]
    padding = [(begin, length - begin - side) for length, side in zip(lengths, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return [[x[:, a::step, b::step] for b in range(step)] for a in range(step)]


def _cells(side: int, step: int) -> int:
    return -(-side // step)
