"""From arrays that a source holds to the variables of a network, and what to say about it.

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
SHOWN = 3  # names that a line of the report spells out
_LONGEST_NAME = 200


class Layout(NamedTuple):
    """How others store an array of ours."""

    stored: Callable[[Shape], Shape]  # shape in the file, from our shape
    ours: Callable[[np.ndarray], np.ndarray]  # our array, from one of that shape


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
    """Where a file keeps an array of the network."""

    name: str  # in the file
    layout: Layout
    default: float | None = None  # its value where the file leaves it out; None: the file must not


@dataclass(frozen=True)
class Found:
    """What a source holds for a network."""

    source: str
    arrays: Mapping[str, np.ndarray]  # by the network's names, in its shapes
    unused: Sequence[str] = ()  # the file's names
    notes: Sequence[str] = ()  # what else is worth a line


@dataclass(frozen=True)
class LoadReport:
    """What became of a source's arrays and of a network's."""

    source: str
    loaded: tuple[str, ...]  # the network's names
    initial: tuple[str, ...]  # those left at their initial values
    unused: tuple[str, ...]  # the file's names
    notes: tuple[str, ...]
    numbers: int  # loaded, over all arrays

    def holds(self, part: str) -> bool:
        """Whether all of a part, such as "body", was loaded."""
        return any(part_of(name) == part for name in self.loaded) and part not in map(part_of, self.initial)

    def lines(self) -> list[str]:
        """A short summary: what was loaded, left at its initial value, and unused."""
        parts = ", ".join(sorted({part_of(name) for name in self.loaded}))
        return [
            f"weights from {self.source}: {_count(self.loaded)} of {self.numbers:,} numbers loaded ({parts})",
            f"left at initial values: {_listed(self.initial)}",
            f"unused in the file: {_listed(self.unused)}",
            *self.notes,
        ]


class Loaded(NamedTuple):
    """A network's variables, and where they are from."""

    variables: dict[str, Any]
    report: LoadReport


def printable(name: str) -> str:
    """A name out of a file as it can stand in a line of text, escaped and cut if need be: no known name needs it."""
    if len(name) <= _LONGEST_NAME and name.isprintable():
        return name
    return ascii(name[:_LONGEST_NAME])[1:-1] + ("…" if len(name) > _LONGEST_NAME else "")


def part_of(name: str) -> str:
    """The part of the network to which an array belongs."""
    return name.split(".")[1]


def names_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables (or their shapes) by name."""
    return traverse_util.flatten_dict(dict(variables), sep=".")


def shapes_of(variables: Mapping[str, Any]) -> dict[str, Shape]:
    """Shapes of a network's variables, by name."""
    return {name: tuple(leaf.shape) for name, leaf in names_of(variables).items()}


def translate(
    source: str, arrays: Mapping[str, np.ndarray], table: Mapping[str, Stored], shapes: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """A file's arrays under the network's names. A part of the network is there wholly or not at all.

    Args:
      source: the file, for messages.
      arrays: by the file's names.
      table: where the file keeps the network's arrays; names that the network does not have are passed over.
      shapes: of the network's arrays. Leading sides of 1 do not count: old Caffe files fill shapes up to four sides.

    Errors:
      ValueError: no part is there, or some of a part is missing or of another shape; names the first such array.
    """
    wanted = {name: table[name] for name in sorted(table) if name in shapes}
    present = {part_of(name) for name, stored in wanted.items() if stored.name in arrays}
    if not present:
        first = next(iter(wanted.values())).name
        raise InvalidInput(
            f"{source}: none of its {len(arrays)} arrays is known here ({_listed(sorted(arrays))}); "
            f"one named {first} is looked for, and others like it"
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
                f"{source} does not fit the config: {stored.name} is {there} and would have to be {expected} "
                f"(the network's {name}, {shapes[name]})"
            )
        found[name] = stored.layout.ours(array.reshape(expected))
    return found


def no_place(source: str, name: str, shape: Shape, depths: Sequence[int]) -> str:
    """What is wrong with a file whose body has more blocks in a stage than the network: half of it would be used."""
    return (
        f"{source} does not fit the config: {name} is {tuple(shape)} in the file and absent from the network: "
        f"set model.body.depths, {tuple(depths)} here, to the file's"
    )


def matching_layers(found: Mapping[str, Shape], shapes: Mapping[str, Shape]) -> tuple[list[str], list[str]]:
    """Arrays of our own names that fit a network: those of layers which agree in all names and shapes.

    Args:
      found, shapes: shapes of the source's arrays, and of the network's.

    Returns:
      (names that fit; a line for each layer of both that does not, with the first array that differs).
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
                f"{layer} is not taken: {first} is {found.get(first, 'absent')} in the file and "
                f"{shapes.get(first, 'absent')} in the network"
            )
    return fitting, lines


def only_part(found: Found, part: str) -> Found:
    """What a source holds for one part; the rest counts as unused."""
    kept = {name: array for name, array in found.arrays.items() if part_of(name) == part}
    if not kept:
        raise InvalidInput(f"{found.source}: there is no {part} in it")
    left = [name for name in found.arrays if name not in kept]
    return Found(found.source, kept, [*found.unused, *left], found.notes)


def put(found: Found, variables: Mapping[str, Any]) -> Loaded:
    """Variables with what was found in their place, float32.

    Errors:
      ValueError: an array holds values that are NaN or infinite in float32, or a variance is negative.
    """
    ours = names_of(variables)
    new = {}
    for name, array in found.arrays.items():
        with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, and is refused
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
