"""Parses Caffe's weight files: named layers with arrays, in the wire format of protocol buffers (docs/network.md §4).

A message is a sequence of fields, each a key (field number · 8 + wire type) and a value; a value of type BYTES starts
with its length and may be another message. Four messages are nested: net, layer, blob and shape. The file is
memory-mapped, and the arrays are views of it. Every length is checked against the rest of the enclosing message, and
the number of fields is limited, because a file could contain millions of tiny ones.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastmask_jax.errors import InvalidInput, MissingFile, printable

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_NEW_LAYERS, _OLD_LAYERS = 100, 2  # fields of the net
_NAME_AND_BLOBS = {_NEW_LAYERS: (1, 7), _OLD_LAYERS: (4, 6)}  # fields of a layer
_MOST_FIELDS = 300_000  # per file, about ten times as many as in real files; each may become an object
_MOST_SIDES = 32  # dimensions of a blob


def read_layers(path: Path) -> dict[str, list[np.ndarray]]:
    """Reads the arrays of every layer, float32 or float64, read-only, in the new or the old record format.

    If several layers have the same name, the last one is used, as in Caffe.

    Raises:
      FileNotFoundError, ValueError: a missing or truncated file, or not Caffe weights; one line that names the file.
    """
    layers: dict[str, list[np.ndarray]] = {}
    name = "the net"
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:  # mmap cannot map empty files
                raise ValueError("the file is empty")
            wire = _Wire(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        for count, (number, kind, begin, end) in enumerate(wire.fields(0, len(wire.data))):
            if number in _NAME_AND_BLOBS and kind == BYTES:
                name_field, blob_field = _NAME_AND_BLOBS[number]
                name = _name(wire, begin, end, name_field) or f"layer {count} (without a name)"
                blobs = _blobs(wire, begin, end, blob_field)
                if blobs:
                    layers[name] = blobs
                name = f"what follows layer {name}"
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except ValueError as error:
        raise InvalidInput(f"{path}: not a complete .caffemodel file: {printable(name)}: {error}") from None
    if not layers:
        raise InvalidInput(f"{path}: no layer contains an array: not a .caffemodel file, or one without weights")
    return layers


class _Wire:
    """The bytes of a file, and the number of fields that may still be parsed."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._left = _MOST_FIELDS

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields (number, wire type, start and end of the value) of every field of the message data[at:end]."""
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {_MOST_FIELDS} fields before byte {at}")
            key, at = _varint(self.data, at, end)
            number, kind = key >> 3, key & 7
            if kind == VARINT:
                begin, at = at, _varint(self.data, at, end)[1]
            elif kind == BYTES:
                length, begin = _varint(self.data, at, end)
                at = begin + length
            elif kind in (FIXED64, FIXED32):
                begin, at = at, at + (8 if kind == FIXED64 else 4)
            else:
                raise ValueError(f"wire type {kind} at byte {at} is not used in weight files")
            if at > end or number == 0:
                raise ValueError(f"field {number} at byte {begin} would end at byte {at}, beyond {end}")
            yield number, kind, begin, at


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """Returns (value, position after it); seven bits per byte, low bits first."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"truncated at byte {end}")
        byte = data[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError(f"the number before byte {at} is longer than 64 bits")


def _name(wire: _Wire, begin: int, end: int, field: int) -> str:
    for number, kind, start, stop in wire.fields(begin, end):
        if number == field and kind == BYTES:
            return printable(bytes(wire.data[start : min(stop, start + 1000)]).decode(errors="replace"))
    return ""


def _blobs(wire: _Wire, begin: int, end: int, field: int) -> list[np.ndarray]:
    blobs = []
    for number, kind, start, stop in wire.fields(begin, end):
        if number == field and kind == BYTES:
            blobs.append(_blob(wire, start, stop))
    return blobs


def _blob(wire: _Wire, begin: int, end: int) -> np.ndarray:
    parts: dict[int, list[np.ndarray]] = {5: [], 8: []}
    dims: list[int] | None = None
    old_dims = dict.fromkeys((1, 2, 3, 4), 0)  # num, channels, height, width
    has_old = False
    for number, kind, start, stop in wire.fields(begin, end):
        if number in parts:
            dtype = np.dtype("<f4" if number == 5 else "<f8")
            if kind != BYTES or (stop - start) % dtype.itemsize:
                raise ValueError(f"the numbers at byte {start} are not packed {dtype}")
            parts[number].append(np.frombuffer(wire.data[start:stop], dtype))
        elif number == 7 and kind == BYTES:
            dims = _dims(wire, start, stop)
        elif number in old_dims and kind == VARINT:
            old_dims[number], has_old = _varint(wire.data, start, stop)[0], True
    pieces = parts[8] or parts[5]
    values = pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])
    if dims is None:
        dims = list(old_dims.values()) if has_old else [len(values)]
    if math.prod(dims) != len(values) or not len(values):
        raise ValueError(f"an array of shape {tuple(dims)} holds {len(values)} numbers")
    return values.reshape(dims)


def _dims(wire: _Wire, begin: int, end: int) -> list[int]:
    dims = []
    for number, kind, start, stop in wire.fields(begin, end):
        if number == 1 and kind in (BYTES, VARINT):
            while start < stop:
                side, start = _varint(wire.data, start, stop)
                dims.append(side)
                if len(dims) > _MOST_SIDES:
                    raise ValueError(f"an array of more than {_MOST_SIDES} sides")
    return dims
