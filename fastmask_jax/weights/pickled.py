"""Reads PyTorch's .pth files without PyTorch and without executing anything in them.

A .pth file consists of a pickle that names storages, and the bytes of the storages: in a zip archive (PyTorch ≥ 1.6),
or concatenated after the pickle (before). This unpickler supports ordered dicts, tensors and storages; any other name
is rejected before anything is called. A pickle is scanned before it is executed, because a few bytes can request any
amount of memory.
"""

import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fastmask_jax.errors import InvalidInput, MissingFile, printable

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_BYTES = np.dtype("u1")  # of an untyped storage: what PyTorch writes for the types that it got since it has these
DTYPES = {
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
}
NESTED = ("state_dict", "model_state_dict", "state_dict_ema", "model", "model_ema", "net", "network")
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # beginning of files older than PyTorch 1.6
_LARGEST_PICKLE = 1 << 24  # bytes, many times as large as real pickles, which contain only names and shapes
_MOST_OPCODES = 1 << 20  # each may become an object; a tensor takes about 40
_DEEPEST = 8  # levels of nested keys of NESTED


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # in values, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    sides = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 32
    if not isinstance(storage, _Storage) or not sides:
        raise pickle.UnpicklingError("a tensor is malformed")
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *shape, *strides)):
        raise pickle.UnpicklingError("a tensor is malformed")
    return _Tensor(storage, offset, shape, strides, storage.dtype)


def _typed_tensor(*arguments: Any) -> _Tensor:
    """Describes a tensor whose storage is bytes: arguments as of `_tensor`, two more, and the dtype."""
    if len(arguments) < 7 or not isinstance(arguments[6], np.dtype):
        raise pickle.UnpicklingError("a tensor is malformed")
    return _tensor(*arguments[:4])._replace(dtype=arguments[6])


def _parameter(data: Any, *_: Any) -> Any:
    return data


_ORDERED_DICT = ("collections", "OrderedDict")
_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "UntypedStorage"): _BYTES,
    **{("torch", name): dtype for name, dtype in (STORAGES | DTYPES).items()},
}


class _Unpickler(pickle.Unpickler):
    """Unpickles only containers, numbers, strings, ordered dicts, and the names in `_NAMES`."""

    def __init__(self, file: BufferedIOBase) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}  # all storages named in the pickle
        self._items = _MOST_OPCODES

    def _ordered_dict(self, items: Sequence[Any] = ()) -> OrderedDict:
        """Creates an ordered dict, empty or, as written by Python 2, from pairs; limits repeated copies of one list."""
        self._items -= len(items)
        if self._items < 0:
            raise pickle.UnpicklingError("its ordered dicts are larger than the file")
        return OrderedDict(items)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _ORDERED_DICT:
            return self._ordered_dict
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(
                f"it would execute {module}.{name}, and only tensors are read: save the state dict alone "
                "(torch.save(model.state_dict(), ...)), or as .safetensors"
            )
        return _NAMES[module, name]

    def persistent_load(self, key: Any) -> _Storage:
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], np.dtype):
            raise pickle.UnpicklingError("a storage is malformed")
        count = key[4]
        if not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError("a storage is malformed")
        return self.storages.setdefault(str(key[2]), _Storage(str(key[2]), key[1], count))


def _unpickled(data: bytes) -> tuple[Any, dict[str, _Storage], int]:
    """Returns (value, named storages, number of bytes) of the pickle at the start of `data`."""
    for count, (opcode, argument, place) in enumerate(pickletools.genops(data)):
        # These opcodes reserve memory for a given number of values.
        numbered = argument if opcode.name in ("PUT", "LONG_BINPUT") else 0
        if max(count, numbered) >= _MOST_OPCODES:
            raise ValueError(
                f"its pickle is larger than a state dict's: save that alone ({opcode.name} at byte {place})"
            )
    unpickler = _Unpickler(BytesIO(data))
    return unpickler.load(), unpickler.storages, place + 1


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict, read-only, by name; also below a key such as "state_dict".

    Raises:
      FileNotFoundError, ValueError: a missing file, not a state dict, or it contains other objects; one line.
    """
    try:
        with path.open("rb") as file:
            tree, storage = _from_zip(file) if zipfile.is_zipfile(file) else _from_legacy(file)
            return {printable(name): _array(tensor, storage) for name, tensor in _state_dict(tree).items()}
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except Exception as error:  # a broken pickle or archive may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InvalidInput(f"{path}: not a readable PyTorch state dict: {reason}") from None


_Read = Callable[[_Storage], np.ndarray]


def _from_zip(file: BufferedIOBase) -> tuple[Any, _Read]:
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("the archive has no data.pkl (TorchScript, or not a PyTorch file: save the state dict)")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in archive.namelist() and _stored(archive, folder + "byteorder", 16) != b"little":
        raise ValueError("its numbers are big-endian")
    tree, _, _ = _unpickled(_stored(archive, pickles[0], _LARGEST_PICKLE))

    def read(storage: _Storage) -> np.ndarray:
        size = storage.count * storage.dtype.itemsize
        data = _stored(archive, f"{folder}data/{storage.key}", size)
        if len(data) < size:
            raise ValueError(f"storage {storage.key} has {len(data)} bytes, not {size}")
        return np.frombuffer(data, storage.dtype, storage.count)

    return tree, _once(read)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
        raise ValueError(f"{name} of the archive is compressed, or of {info.file_size} bytes where {limit} fit")
    return info


def _stored(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    return archive.read(_member(archive, name, limit))


def _from_legacy(file: BufferedIOBase) -> tuple[Any, _Read]:
    file.seek(0)
    if file.read(1) != b"\x80":
        raise ValueError("neither a zip archive nor a pickle")
    file.seek(0)

    def load() -> tuple[Any, dict[str, _Storage]]:
        begin = file.tell()
        value, storages, size = _unpickled(file.read(_LARGEST_PICKLE))
        file.seek(begin + size)
        return value, storages

    if [load()[0] for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise ValueError("neither a zip archive nor a pickle of PyTorch's own")
    system = load()[0]
    if not isinstance(system, Mapping) or not system.get("little_endian"):
        raise ValueError("its numbers are big-endian")
    tree, storages = load()
    places: dict[str, int] = {}
    for key in map(str, load()[0]):
        storage, (count,) = storages[key], struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} numbers, not {storage.count}")
        places[key] = file.tell()
        file.seek(count * storage.dtype.itemsize, 1)
    end = file.seek(0, 2)

    def read(storage: _Storage) -> np.ndarray:
        size = storage.count * storage.dtype.itemsize
        if places[storage.key] + size > end:
            raise ValueError(f"truncated in storage {storage.key}")
        file.seek(places[storage.key])
        return np.frombuffer(file.read(size), storage.dtype)

    return tree, _once(read)


def _once(read: _Read) -> _Read:
    """Reads each storage once, because tensors may share it."""
    known: dict[str, np.ndarray] = {}

    def remembered(storage: _Storage) -> np.ndarray:
        if storage.key not in known:
            known[storage.key] = read(storage)
        return known[storage.key]

    return remembered


def _state_dict(tree: Any) -> dict[str, _Tensor]:
    for _ in range(_DEEPEST):  # a dict may contain itself
        if not isinstance(tree, Mapping):
            break
        tensors = {name: value for name, value in tree.items() if isinstance(name, str) and isinstance(value, _Tensor)}
        if tensors:
            return tensors
        tree = next((tree[key] for key in NESTED if key in tree), None)
    raise ValueError(f"no named tensors in it, nor below one of the keys {', '.join(NESTED)}")


def _array(tensor: _Tensor, read: _Read) -> np.ndarray:
    values = read(tensor.storage)
    if tensor.dtype != values.dtype:
        if values.dtype != _BYTES or len(values) % tensor.dtype.itemsize:
            raise ValueError(f"a storage of {len(values)} {values.dtype} holds no {tensor.dtype}")
        values = values.view(tensor.dtype)
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, values.dtype)
    last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= len(values) or math.prod(tensor.shape) > len(values):
        raise ValueError(f"a tensor of shape {tensor.shape} lies beyond its storage of {len(values)} numbers")
    size = values.dtype.itemsize
    steps = [step * size for step in tensor.strides]
    return np.ndarray(tensor.shape, values.dtype, values.view(_BYTES), tensor.offset * size, steps)
