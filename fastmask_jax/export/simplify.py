"""Rewrites a JAX function with fewer and simpler operations, for converters that support only some of them.

Calls are inlined, platform-dependent code takes its default branch, equal operations are shared (every layer computes
the masks of its padding), and a few operations are expressed by others.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from fastmask_jax.errors import InvalidInput

_BODIES = {"jit": "jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def simplify(function: Callable[..., Any], *arguments: jax.ShapeDtypeStruct) -> ClosedJaxpr:
    """Returns the simplified jaxpr of a function of arrays; closed-over arrays become its constants."""
    closed = jax.make_jaxpr(function)(*arguments)
    return jax.make_jaxpr(lambda *inputs: _Evaluation().run(closed.jaxpr, closed.consts, inputs))(*arguments)


class _Evaluation:
    """One pass over the operations of a function that memoizes their results."""

    def __init__(self) -> None:
        self._done: dict[Any, tuple[list[Any], list[Any]]] = {}  # keeps operands alive, so that their ids stay unique

    def run(self, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            results = self._results(equation, [value(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _results(self, equation: JaxprEqn, operands: list[Any]) -> list[Any]:
        name, settings = equation.primitive.name, equation.params
        if name in _BODIES:
            return self._inside(settings[_BODIES[name]], operands)
        if name == "platform_index":
            return [settings["platforms"].index(None)]
        if name == "cond" and isinstance(operands[0], int):
            return self._inside(settings["branches"][operands[0]], operands[1:])
        key = _key(equation, operands)
        if key not in self._done:
            written = _WRITTEN_WITH_OTHERS.get(name, equation.primitive.bind)
            results = written(*operands, **settings)
            self._done[key] = operands, list(results) if equation.primitive.multiple_results else [results]
        return self._done[key][1]

    def _inside(self, body: ClosedJaxpr | Jaxpr, operands: Sequence[Any]) -> list[Any]:
        return self.run(getattr(body, "jaxpr", body), getattr(body, "consts", ()), operands)


def _key(equation: JaxprEqn, operands: Sequence[Any]) -> Any:
    key = equation.primitive, tuple(map(_identity, operands)), tuple(sorted(equation.params.items()))
    try:
        hash(key)
    except TypeError:  # for example an array among the parameters: never equal
        return id(equation)
    return key


def _identity(operand: Any) -> Any:
    """Returns a key that is equal for the same array, and for equal scalars of one type; as text, since -0.0 == 0.0."""
    if isinstance(operand, jax.core.Tracer) or np.ndim(operand):
        return id(operand)
    number = np.asarray(operand)
    return str(number.dtype), repr(number.item())


def _remainder(a: jax.Array, b: jax.Array) -> jax.Array:
    return a - lax.div(a, b) * b


def _window_max(
    x: jax.Array,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **dilations: Any,
) -> jax.Array:
    """Computes a window maximum from shifted, strided views."""
    if any(factor != 1 for factors in dilations.values() for factor in factors):
        raise InvalidInput("a maximum over dilated windows cannot be exported")
    x = lax.pad(x, np.array(-np.inf, x.dtype), [(low, high, 0) for low, high in padding])
    ends = [n - side for n, side in zip(x.shape, window_dimensions, strict=True)]
    views = [
        lax.slice(x, start, [end + first + 1 for end, first in zip(ends, start, strict=True)], window_strides)
        for start in np.ndindex(*window_dimensions)
    ]
    return reduce(lax.max, views)


_WRITTEN_WITH_OTHERS: dict[str, Callable[..., Any]] = {
    "stop_gradient": lambda x: x,
    "optimization_barrier": lambda *operands: operands,
    "rem": _remainder,
    "reduce_window_max": _window_max,
}
