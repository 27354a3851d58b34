""".safetensors files: others' state dicts, and this project's own networks, written and read back bit by bit.

Ours hold the variables under the network's names, "params.body.stem.kernel", and in their metadata the config as JSON.
In half precision, kernels are rounded to float16: about half the size. Reading is the same.
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

CONFIG = "fastmask_jax_config"  # the metadata's only key: of several, safetensors would not keep the order


class Contents(NamedTuple):
    """What a .safetensors file holds."""

    arrays: dict[str, np.ndarray]
    config: dict[str, Any] | None  # of the network, where the file is one of ours


def read_safetensors(path: Path) -> Contents:
    """All arrays of a file, and the config where it is one of this project's.

    Errors:
      FileNotFoundError, ValueError: no such file, or it is cut off or no .safetensors; one line.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            config = _config(file.metadata())
            names = file.keys()  # of a handle that is no mapping
            return Contents({printable(name): file.get_tensor(name) for name in names}, config)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: not a whole .safetensors file: {error}") from None


def read_config(path: Path) -> dict[str, Any] | None:
    """The config in the metadata of a file of ours; None in others. Errors: as `read_safetensors`."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _config(file.metadata())
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a whole .safetensors file: {error}") from None


def write_safetensors(path: Path, variables: Mapping[str, Any], config: Mapping[str, Any], half: bool = False) -> int:
    """Writes a network's variables and its config; the file is there whole or not at all.

    Args:
      path: its folder is made where it is missing.
      variables, config: the network's.
      half: kernels as float16. Biases and norms stay as they are: they are few, and variances may exceed its range.

    Returns:
      The number of arrays.

    Errors:
      ValueError: a kernel that float16 cannot hold; one line.
    """
    arrays = {name: np.array(leaf, order="C") for name, leaf in names_of(variables).items()}
    if half:
        arrays = {name: _halved(name, array) if array.ndim > 1 else array for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(arrays, {CONFIG: json.dumps(config)}))  # save_file would leave it to its owner alone
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
