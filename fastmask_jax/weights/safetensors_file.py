"""Reads .safetensors files: third-party state dicts, and networks of this project, which it also writes.

Files of this project hold the variables by the network's names, "params.body.stem.kernel", and the config as JSON in
their metadata. Reading returns the same bits. In half precision, kernels are rounded to float16: about half the size.
Files of others may have the types that NumPy lacks, such as bfloat16 and float8.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from fastmask_jax.errors import InvalidInput, MissingFile, printable
from fastmask_jax.weights.mapping import names_of
from fastmask_jax.weights.native import parse_config
from fastmask_jax.whole_file import whole_file

CONFIG = "fastmask_jax_config"  # the only metadata key, because safetensors does not preserve the order of several
_DTYPES = {
    **{"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8"},
    **{"I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": ml_dtypes.bfloat16},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu},
    **{"F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz},
}


class Contents(NamedTuple):
    """Content of a .safetensors file."""

    arrays: dict[str, np.ndarray]
    config: dict[str, Any] | None  # the network's config, if the file was written by this project


def read_safetensors(path: Path) -> Contents:
    """Reads all arrays of a file, and the config if the file was written by this project.

    Raises:
      FileNotFoundError, ValueError: a missing or truncated file, not a .safetensors file, or one with a type of numbers
        that cannot be read; one line.
    """
    config = read_config(path)
    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise InvalidInput(f"{path}: not a complete .safetensors file: {printable(str(error))}") from None
    return Contents({printable(name): _array(f"{path}: {printable(name)}", entry) for name, entry in entries}, config)


def read_config(path: Path) -> dict[str, Any] | None:
    """Reads the config in the metadata of a file of this project; None for others; raises as `read_safetensors`."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _config(file.metadata())
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a complete .safetensors file: {printable(str(error))}") from None


def _array(where: str, entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise InvalidInput(f"{where} is of type {entry['dtype']}, which is not read: convert it to one of {known}")
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])


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
    with whole_file(path) as part:
        part.write_bytes(save(arrays, {CONFIG: json.dumps(config)}))  # save_file makes it readable by its owner alone
    return len(arrays)


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    if np.abs(array).max() > np.finfo(np.float16).max:
        raise InvalidInput(f"{name} has values beyond the range of float16: export it without --half")
    return array.astype(np.float16)


def _config(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    if not metadata or CONFIG not in metadata:
        return None
    return parse_config(metadata[CONFIG])
