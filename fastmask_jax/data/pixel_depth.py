"""Converts pixel values of any depth to 8 bits."""

from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from fastmask_jax.errors import InvalidInput

_DEPTH = 8
_MOST_OF_UNIT_RANGE = 2


def to_uint8(
    values: Shaped[np.ndarray, "*shape"], value_range: tuple[Any, Any] | None = None
) -> UInt8[np.ndarray, "*shape"]:
    """Converts pixel values to 0 … 255.

    Integers of more than 8 bits lose their lowest bits. The largest value determines the number of bits, because
    cameras and scanners store 10, 12 or 14 bits in 16-bit files. It also determines whether floating-point values range
    from 0 to 1 or from 0 to 255. If the largest value is at most 2, the range is 0 to 1; values above 1, which
    resampling causes, are clipped.

    Args:
      values: pixels of an image, or of a part of one.
      value_range: smallest and largest value of the whole image; None: those of `values`.

    Raises:
      ValueError: values below 0, floating-point values above 255, or NaN.
    """
    if values.dtype == np.uint8:
        return values
    least, most = value_range or ((values.min(), values.max()) if values.size else (0, 0))
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if np.issubdtype(values.dtype, np.integer) and least >= 0:
        return (values >> max(int(most).bit_length() - _DEPTH, 0)).astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating) and least >= 0 and most <= 255:
        return np.rint(np.minimum(values, 1) * 255 if most <= _MOST_OF_UNIT_RANGE else values).astype(np.uint8)
    raise InvalidInput(
        f"pixels are {values.dtype} from {least:g} to {most:g}: scale them to 0 ... 255 (or 0 ... 1 with a point)"
    )
