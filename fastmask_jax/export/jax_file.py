"""Exports a network as one .npz file that runs with JAX alone: the function as StableHLO, weights, a description.

JAX needs the package flatbuffers to read and write such functions. The weights are stored separately and passed as an
argument: XLA would spend minutes folding them as constants.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from fastmask_jax.errors import InvalidInput
from fastmask_jax.export.spec import ExportSpec, Proposed, propose
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.weights.mapping import names_of
from fastmask_jax.whole_file import whole_file

PLATFORMS = ("cpu", "cuda", "tpu")
FUNCTION, DESCRIPTION = "function", "description"  # arrays of the file that are not weights


def write_jax(path: Path, model: FastMask, variables: Mapping[str, Any], spec: ExportSpec) -> None:
    """Writes the proposal function of a network for CPUs, NVIDIA GPUs and TPUs, atomically.

    Arrays of the file: `function`, the bytes of `jax.export` for a function of (weights by name, image, size), see
    `spec`; `description`, JSON; all others are the weights, float32.

    Args:
      path: NAME.npz.
      variables: the network's collections.

    Raises:
      ValueError: flatbuffers is not installed; one line.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise InvalidInput("--format jax needs flatbuffers, which is not installed: pip install flatbuffers")
    weights = {name: np.asarray(leaf) for name, leaf in names_of(variables).items()}

    def function(weights: dict[str, jax.Array], image: jax.Array, size: jax.Array) -> Proposed:
        return propose(model, spec.proposals, traverse_util.unflatten_dict(weights, sep="."), image, size)

    batch = export.symbolic_shape("batch")[0] if spec.batch is None else spec.batch
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights),
        jax.ShapeDtypeStruct((batch, spec.height, spec.width, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch, 2), jnp.int32),
    )
    about = {
        FUNCTION: np.frombuffer(exported.serialize(), np.uint8),
        DESCRIPTION: np.array(json.dumps(spec.description(model.strides))),
    }
    with whole_file(path) as part, part.open("wb") as file:  # given a path, NumPy would add a suffix
        np.savez(file, **about, **weights)
