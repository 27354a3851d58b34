"""Reads .safetensors files: third-party state dicts, and networks of this project, which it also writes.

Files of this project hold the variables by the network's names, "params.body.stem.kernel", and the config as JSON in
their metadata. Reading returns the same bits. In half precision, kernels are rounded to float16: about half the size.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.weights.mapping import names_of, printable
from fastmask_jax.weights.native import parse_config

CONFIG = "fastmask_jax_config"  # the only metadata key, because safetensors does not preserve the order of several


class Contents(NamedTuple):
    """Content of a .safetensors file."""

    arrays: dict[str, np.ndarray]
    config: dict[str, Any] | None  # the network's config, if the file was written by this project


def read_safetensors(path: Path) -> Contents:
    """Reads all arrays of a file, and the config if the file was written by this project.

    Raises:
      FileNotFoundError, ValueError: a missing or truncated file, or not a .safetensors file; one line.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            config = _config(file.metadata())
            names = file.keys()  # the handle is not a mapping
            return Contents({printable(name): file.get_tensor(name) for name in names}, config)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: not a complete .safetensors file: {error}") from None


def read_config(path: Path) -> dict[str, Any] | None:
    """Reads the config in the metadata of a file of this project; None for others; raises as `read_safetensors`."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _config(file.metadata())
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a complete .safetensors file: {error}") from None


def write_safetensors(path: Path, variables: Mapping[str, Any], config: Mapping[str, Any], half: bool = False) -> int:
    """Writes a network's variables and its config, atomically.

    Args:
      path: output file; its folder is created if missing.
      variables, config: variables and config of the network.
      half: store kernels as float16. Biases and norms stay float32: they are few, and variances may exceed its range.

    Returns:
      The number of arrays.

    Raises:
      ValueError: a kernel exceeds the range of float16; one line.
    """
    arrays = {name: np.array(leaf, order="C") for name, leaf in names_of(variables).items()}
    if half:
        arrays = {name: _halved(name, array) if array.ndim > 1 else array for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(arrays, {CONFIG: json.dumps(config)}))  # save_file would make it readable only by its owner
    part.replace(path)
    return len(arrays)


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    if np.abs(array).max() > np.finfo(np.float16).max:
        raise InvalidInput(f"{name} has values beyond the range of float16: export it without --half")
    return array.astype(np.float16)


def _config(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    if not metadata or CONFIG not in metadata:
        return None
    return parse_config(metadata[CONFIG])
