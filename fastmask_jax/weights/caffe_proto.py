"""Caffe's weight files: named layers with arrays, out of the wire format of protocol buffers (docs/network.md §4).

A message is a row of fields, each a key (field number · 8 + wire type) and a value; a value of type BYTES begins with
its length and may be a message again. Four messages are nested here, net, layer, blob and shape, in that depth alone.
The file is mapped, not read; the arrays are views of it. No length in it is believed before it is compared with
what is left of the message around it, and fields are counted: a file can be made of millions of tiny ones.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.weights.mapping import printable

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_NEW_LAYERS, _OLD_LAYERS = 100, 2  # fields of the net
_NAME_AND_BLOBS = {_NEW_LAYERS: (1, 7), _OLD_LAYERS: (4, 6)}  # fields of a layer
_MOST_FIELDS = 300_000  # of a whole file, some ten times a real one's; each may become an object
_MOST_SIDES = 32  # of a blob


def read_layers(path: Path) -> dict[str, list[np.ndarray]]:
    """The arrays of every layer that has some, float32 or float64, read-only; the new and the old record format.

    Of several layers of one name the last one counts, as in Caffe.

    Errors:
      FileNotFoundError, ValueError: no such file, or no Caffe weights, or cut off; one line naming the file.
    """
    layers: dict[str, list[np.ndarray]] = {}
    name = "the net"
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:  # which mmap takes for a mistake of its own
                raise ValueError("it is empty")
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
        raise InvalidInput(f"{path}: not a whole .caffemodel file: {name}: {error}") from None
    if not layers:
        raise InvalidInput(f"{path}: no layer in it holds an array: not a .caffemodel file, or one without weights")
    return layers


class _Wire:
    """The bytes of a file, and how many fields may still be found in them."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._left = _MOST_FIELDS

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, wire type, begin, end) of every field of the message data[at:end]: where its value lies."""
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
                raise ValueError(f"wire type {kind} at byte {at} is not one of a weight file's")
            if at > end or number == 0:
                raise ValueError(f"field {number} at byte {begin} would end at byte {at}, beyond {end}")
            yield number, kind, begin, at


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """(value, where the next thing begins); seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"cut off at byte {end}")
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
