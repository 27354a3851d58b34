"""Computes a digest of a network's variables."""

import hashlib
from typing import Any

import jax
import numpy as np


def sha256_of(variables: Any) -> str:
    """Returns the SHA-256 of all names, dtypes, shapes and values of a tree of arrays, in hexadecimal digits."""
    result = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(variables):
        value = np.ascontiguousarray(array)
        result.update(f"{jax.tree_util.keystr(path)} {value.dtype} {np.shape(array)}\n".encode())
        result.update(value.tobytes())
    return result.hexdigest()
