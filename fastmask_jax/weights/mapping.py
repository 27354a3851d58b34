"""Maps the arrays of a source to the variables of a network, and reports the result.

The network's names are the paths of its variables joined with dots, "params.body.stem.kernel": a collection, a part
("body", "neck", "lateral", "window_norm", "objectness", "mask"), layers, and the array's own name.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import WINDOW

Shape = tuple[int, ...]
SHOWN = 3  # names listed per line of the report


class Layout(NamedTuple):
    """How an array is laid out in a third-party file."""

    stored: Callable[[Shape], Shape]  # shape in the file, from the network's shape
    ours: Callable[[np.ndarray], np.ndarray]  # the network's array, from one of that shape


VECTOR = Layout(lambda ours: ours, lambda x: x)
DENSE = Layout(lambda ours: ours[::-1], lambda x: x.T)  # (F, C) → (C, F)
POINTWISE = Layout(lambda ours: (*ours[::-1], 1, 1), lambda x: x[:, :, 0, 0].T)  # (F, C, 1, 1) → (C, F)
CONV = Layout(lambda ours: (ours[3], ours[2], *ours[:2]), lambda x: x.transpose(2, 3, 1, 0))  # OIHW → HWIO
DEPTHWISE = Layout(lambda ours: (ours[2], 1, *ours[:2]), lambda x: x[:, 0].transpose(1, 2, 0))  # O1HW → HWO
WINDOW_DENSE = Layout(  # (F, C * 100), channel-major → (10, 10, C, F)
    lambda ours: (ours[3], math.prod(ours[:3])),
    lambda x: x.reshape(len(x), -1, WINDOW, WINDOW).transpose(2, 3, 1, 0),
)


class Stored(NamedTuple):
    """Name and layout of a network's array in a file."""

    name: str  # in the file
    layout: Layout
    default: float | None = None  # value if the file omits it; None: required


@dataclass(frozen=True)
class Found:
    """Arrays of a source that fit a network."""

    source: str
    arrays: Mapping[str, np.ndarray]  # by the network's names, in its shapes
    unused: Sequence[str] = ()  # the file's names
    notes: Sequence[str] = ()  # further lines for the report


@dataclass(frozen=True)
class LoadReport:
    """Report of loaded, initial and unused arrays."""

    source: str
    loaded: tuple[str, ...]  # the network's names
    initial: tuple[str, ...]  # those that keep their initial values
    unused: tuple[str, ...]  # the file's names
    notes: tuple[str, ...]
    numbers: int  # number of loaded values over all arrays

    def holds(self, part: str) -> bool:
        """Returns whether all of a part, such as "body", was loaded."""
        return any(part_of(name) == part for name in self.loaded) and part not in map(part_of, self.initial)

    def lines(self) -> list[str]:
        """Returns a short summary of loaded, initial and unused arrays."""
        parts = ", ".join(sorted({part_of(name) for name in self.loaded}))
        return [
            f"weights from {self.source}: {_count(self.loaded)} of {self.numbers:,} numbers loaded ({parts})",
            f"left at initial values: {_listed(self.initial)}",
            f"unused in the file: {_listed(self.unused)}",
            *self.notes,
        ]


class Loaded(NamedTuple):
    """A network's variables, and a report of their origin."""

    variables: dict[str, Any]
    report: LoadReport


def part_of(name: str) -> str:
    """Returns the part of the network that an array belongs to."""
    return name.split(".")[1]


def names_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables (or their shapes) by name."""
    return traverse_util.flatten_dict(dict(variables), sep=".")


def shapes_of(variables: Mapping[str, Any]) -> dict[str, Shape]:
    """Returns the shapes of a network's variables, by name."""
    return {name: tuple(leaf.shape) for name, leaf in names_of(variables).items()}


def translate(
    source: str, arrays: Mapping[str, np.ndarray], table: Mapping[str, Stored], shapes: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """Maps a file's arrays to the network's names. Each part of the network must be complete or absent.

    Args:
      source: the file, for messages.
      arrays: arrays by the file's names.
      table: names and layouts in the file by the network's names; names that the network does not have are ignored.
      shapes: shapes of the network's arrays. Leading dimensions of 1 are ignored: old Caffe files pad shapes to four.

    Raises:
      ValueError: no part is present, or an array of a part is missing or of another shape; names the first one.
    """
    wanted = {name: table[name] for name in sorted(table) if name in shapes}
    present = {part_of(name) for name, stored in wanted.items() if stored.name in arrays}
    if not present:
        first = next(iter(wanted.values())).name
        raise InvalidInput(
            f"{source}: none of its {len(arrays)} arrays is known ({_listed(sorted(arrays))}); "
            f"expected names such as {first}"
        )
    found = {}
    for name, stored in wanted.items():
        if part_of(name) not in present:
            continue
        expected = stored.layout.stored(shapes[name])
        array = arrays.get(stored.name)
        if array is None and stored.default is not None:
            array = np.full(expected, stored.default, np.float32)
        if array is None or _trimmed(array.shape) != _trimmed(expected):
            there = "absent" if array is None else f"{array.shape} in the file"
            raise InvalidInput(
                f"{source} does not fit the config: {stored.name} is {there}, but must be {expected} "
                f"(the network's {name}, {shapes[name]})"
            )
        found[name] = stored.layout.ours(array.reshape(expected))
    return found


def no_place(source: str, name: str, shape: Shape, depths: Sequence[int]) -> str:
    """Describes a file whose body has more blocks in a stage than the network, which would ignore the others."""
    return (
        f"{source} does not fit the config: {name} is {tuple(shape)} in the file and absent from the network: "
        f"set model.body.depths, {tuple(depths)} here, to the file's"
    )


def matching_layers(found: Mapping[str, Shape], shapes: Mapping[str, Shape]) -> tuple[list[str], list[str]]:
    """Selects arrays by the network's names that fit: those of layers that agree in all names and shapes.

    Args:
      found, shapes: shapes of the source's and of the network's arrays.

    Returns:
      (names that fit; a line for each common layer that does not fit, with the first array that differs).
    """
    fitting, lines = [], []
    layers: dict[str, list[str]] = {}
    for name in sorted(found.keys() | shapes.keys()):
        layers.setdefault(_layer_of(name), []).append(name)
    for layer, names in layers.items():
        differing = [name for name in names if found.get(name) != shapes.get(name)]
        if not differing:
            fitting += names
        elif found.keys() & set(names) and shapes.keys() & set(names):
            first = differing[0]
            lines.append(
                f"{layer} is not loaded: {first} is {found.get(first, 'absent')} in the file and "
                f"{shapes.get(first, 'absent')} in the network"
            )
    return fitting, lines


def only_part(found: Found, part: str) -> Found:
    """Keeps the arrays of one part; the rest counts as unused."""
    kept = {name: array for name, array in found.arrays.items() if part_of(name) == part}
    if not kept:
        raise InvalidInput(f"{found.source}: contains no {part}")
    left = [name for name in found.arrays if name not in kept]
    return Found(found.source, kept, [*found.unused, *left], found.notes)


def put(found: Found, variables: Mapping[str, Any]) -> Loaded:
    """Replaces variables by the arrays found, as float32.

    Raises:
      ValueError: an array contains values that are NaN or infinite in float32, or a negative variance.
    """
    ours = names_of(variables)
    new = {}
    for name, array in found.arrays.items():
        with np.errstate(over="ignore"):  # float64 values beyond float32's range become infinite and are refused
            single = array.astype(np.float32)
        if not np.isfinite(single).all():
            raise InvalidInput(f"{found.source}: the network's {name} would get values that are not finite in float32")
        if name.endswith(".var") and single.min(initial=0) < 0:
            raise InvalidInput(f"{found.source}: the network's {name} is a variance and would get negative values")
        new[name] = jnp.asarray(single)
    report = LoadReport(
        source=found.source,
        loaded=tuple(sorted(new)),
        initial=tuple(sorted(ours.keys() - new.keys())),
        unused=tuple(found.unused),
        notes=tuple(found.notes),
        numbers=sum(array.size for array in new.values()),
    )
    return Loaded(traverse_util.unflatten_dict({**ours, **new}, sep="."), report)


def _layer_of(name: str) -> str:
    return name.partition(".")[2].rpartition(".")[0]


def _trimmed(shape: Shape) -> Shape:
    while shape and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} array{'' if len(names) == 1 else 's'}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "nothing"
    return f"{_count(names)} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
