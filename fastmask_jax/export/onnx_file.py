"""Exports a network as one .onnx file with jax2onnx (an optional extra: requirements-export.txt)."""

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from fastmask_jax.errors import InvalidInput
from fastmask_jax.export.simplify import simplify
from fastmask_jax.export.spec import INPUTS, OUTPUTS, ExportSpec, Proposed, propose
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.whole_file import whole_file

if TYPE_CHECKING:
    import onnx

DESCRIPTION = "fastmask_jax"  # key of the description in the file's metadata
OPSET = 23
OPSETS = range(13, 25)


def write_onnx(path: Path, model: FastMask, variables: Mapping[str, Any], spec: ExportSpec, opset: int = OPSET) -> None:
    """Writes the proposal function of a network (see `ExportSpec`), atomically.

    For an arbitrary batch size, an ONNX Scan runs the network of one image over the images.

    Args:
      path: NAME.onnx.
      variables: the network's collections.
      opset: version of the ONNX operators, one of OPSETS; runtimes read the versions up to their own.

    Raises:
      ValueError: `opset` is not one of OPSETS, the packages of requirements-export.txt are not installed, or the
        network does not compute in float32; one line.
    """
    if importlib.util.find_spec("jax2onnx") is None:
        raise InvalidInput(
            "--format onnx needs jax2onnx, which is not installed: pip install -r requirements-export.txt"
        )
    if opset not in OPSETS:
        raise InvalidInput(f"--opset {opset} is not one of {OPSETS[0]} to {OPSETS[-1]}")
    if model.dtype != jnp.float32:
        raise InvalidInput(
            f"--format onnx: the network computes in {jnp.dtype(model.dtype).name}, which few ONNX operators know; "
            "add --config.model.dtype=float32"
        )
    import onnx

    if model.score_form == "auto":
        model = model.clone(score_form="conv")  # a single operator that every runtime executes fast
    graph = (_one_image if spec.batch is None else _batch)(model, variables, spec, opset)
    description = {DESCRIPTION: json.dumps(spec.description(model.strides))}
    onnx.helper.set_model_props(graph, description)
    with whole_file(path) as part:
        part.write_bytes(graph.SerializeToString())


def _batch(model: FastMask, variables: Mapping[str, Any], spec: ExportSpec, opset: int) -> "onnx.ModelProto":
    """Converts the function of exactly `spec.batch` images."""

    def function(image: jax.Array, size: jax.Array) -> Proposed:
        return propose(model, spec.proposals, variables, image, size)

    image = jax.ShapeDtypeStruct((spec.batch, spec.height, spec.width, 3), jnp.float32)
    size = jax.ShapeDtypeStruct((spec.batch, 2), jnp.int32)
    return _convert(function, image, size, INPUTS, OUTPUTS, opset)


def _one_image(model: FastMask, variables: Mapping[str, Any], spec: ExportSpec, opset: int) -> "onnx.ModelProto":
    """Converts the function of any number of images: that of one image, scanned over the batch."""
    from onnx import helper

    def function(image: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
        return jax.tree.map(lambda x: x[0], propose(model, spec.proposals, variables, image[None], size[None]))

    image = jax.ShapeDtypeStruct((spec.height, spec.width, 3), jnp.float32)
    size = jax.ShapeDtypeStruct((2,), jnp.int32)
    inner = [tuple(f"{name}_of_one" for name in names) for names in (INPUTS, OUTPUTS)]
    converted = _convert(function, image, size, *inner, opset)
    one = converted.graph

    def batched(name: str, of_one: "onnx.ValueInfoProto") -> "onnx.ValueInfoProto":
        tensor = of_one.type.tensor_type
        sides = [side.dim_value for side in tensor.shape.dim]
        return helper.make_tensor_value_info(name, tensor.elem_type, ["batch", *sides])

    scan = helper.make_node("Scan", INPUTS, OUTPUTS, body=one, num_scan_inputs=len(INPUTS))
    inputs, outputs = map(batched, INPUTS, one.input), map(batched, OUTPUTS, one.output)
    graph = helper.make_graph([scan], "fastmask", list(inputs), list(outputs))
    return helper.make_model(graph, opset_imports=converted.opset_import, ir_version=converted.ir_version)


def _convert(
    function: Callable[..., Any],
    image: jax.ShapeDtypeStruct,
    size: jax.ShapeDtypeStruct,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    opset: int,
) -> "onnx.ModelProto":
    plain = simplify(function, image, size)  # jax2onnx patches functions of Flax and jnp while it traces, but not these
    with _quiet("onnx_ir", "jax2onnx"):
        from jax2onnx import to_onnx

        converted = to_onnx(jaxpr_as_fun(plain), [image, size], opset=opset, input_names=inputs, output_names=outputs)
    _drop_written_out_numbers(converted.graph)
    return converted


def _drop_written_out_numbers(graph: "onnx.GraphProto") -> None:
    """Replaces constant arrays in Where nodes by scalars, and removes unused arrays.

    jax2onnx writes a scalar at the size of the array it is selected against. At full size that is most of the file
    (docs/export.md); ONNX broadcasts scalars.
    """
    from onnx import numpy_helper

    arrays = {array.name: array for array in graph.initializer}
    numbers = {}
    for node in graph.node:
        for case, other in ((1, 2), (2, 1)) if node.op_type == "Where" else ():
            array = arrays.get(node.input[case])
            if array is not None and node.input[other] not in arrays:
                values = numpy_helper.to_array(array)
                if values.size > 1 and (values == values.flat[0]).all():
                    name = f"{array.name}_as_number"
                    numbers[name] = numpy_helper.from_array(values.flat[:1].reshape(()), name)
                    node.input[case] = name
    used = {name for node in graph.node for name in node.input}
    kept = [array for name, array in arrays.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *numbers.values()])


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silences warnings of these libraries: one per operation whose shape they do not record."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
