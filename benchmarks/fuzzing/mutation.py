"""Damages bytes and JSON values at random."""

import contextlib
import copy
from typing import Any

import numpy as np

_WORDS = [b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 16, b"\x80\x00", b"\x01"]


def pick(rng: np.random.Generator, values: Any) -> Any:
    """Returns one of some values, of any types."""
    return values[int(rng.integers(len(values)))]


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Changes bytes in one to eight ways; most changes are near the beginning, where headers are."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        end = len(data) if rng.random() < 0.4 else min(len(data), 200)
        at = int(rng.integers(end))
        match int(rng.integers(7)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                word = pick(rng, _WORDS)
                data[at : at + len(word)] = word
            case 2:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 3:
                del data[at : at + int(rng.integers(1, 30))]
            case 4:
                size = int(rng.integers(1, 100))
                data[at:at] = data[at : at + size]
            case 5:
                data[at : at + 4] = rng.bytes(4)
            case 6 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def odd_value(rng: np.random.Generator) -> Any:
    """Returns a JSON value of any type; huge, tiny, empty, nested, or no text."""
    deep: Any = []
    for _ in range(int(rng.integers(1, 60))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return pick(
        rng,
        [
            *(None, True, False, 0, -1, 1, 2, 7.0, 2.5, -0.0, 1e-320, 1e9, 10**9, 2**31, 2**32, 2**63, 2**64, 10**30),
            *(-(2**63), 10**400, 1e308, float("nan"), float("inf"), -float("inf"), "", "0", "7", "1e400", "nan", "-1"),
            *("../../etc/passwd", "/dev/zero", "a\nb", "\0", "\ud800", "\x1b[2J", "é" * 300, "x" * 100_000, "True"),
            *("http://[1.jpg", "https://[::1/1.jpg", "file://[x]/1.jpg", "//[/1.jpg", "[1].jpg"),
            *([], {}, [[]], [None], [1, 2, 3, 4], [0, 0, 0, 0], [1e308] * 6, [[1e9, 2, 3, 4, 5, 6]], [-1] * 8, deep),
            *({"size": [9, 9], "counts": "0"}, {"size": 5}, {"counts": [1, 2]}, {"size": [10**9, 10**9], "counts": []}),
            *(rng.integers(-5, 5, 8).tolist(), rng.random(8).tolist(), int(rng.integers(0, 1000)), float(rng.random())),
        ],
    )


def changed(rng: np.random.Generator, tree: Any) -> Any:
    """Replaces, removes, renames or doubles one to four values anywhere in a JSON tree."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 5))):
        inner: Any = tree
        for _ in range(20):
            keys = _keys(inner)
            if not keys:
                break
            key = pick(rng, keys)
            if not _keys(inner[key]) or rng.random() < 0.15:
                _change(rng, inner, key)
                break
            inner = inner[key]
    return odd_value(rng) if rng.random() < 0.01 else tree


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def _change(rng: np.random.Generator, inner: Any, key: Any) -> None:
    match int(rng.integers(8)):
        case 0:
            del inner[key]
        case 1 if isinstance(inner, list):
            inner.append(copy.deepcopy(inner[key]))
        case 2 if isinstance(inner, dict):
            inner[str(odd_value(rng))[:50]] = inner.pop(key)
        case 3 if isinstance(inner[key], int | float):
            factor = pick(rng, [-1, 1.5, 10**6, 10**12, 1e-9])
            with contextlib.suppress(OverflowError):  # an integer beyond float64
                inner[key] = inner[key] * factor
        case 4 if isinstance(inner[key], str):
            inner[key] = damaged(rng, inner[key].encode(errors="replace")).decode("latin-1")
        case _:
            inner[key] = odd_value(rng)
