"""Trained variables in the form that inference uses: products in a lower precision, transforms computed once."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.window_correlation import kernel_spectrum

_KEPT = ("stem", "depthwise", "objectness_attention")  # small layers that are not products: always float32


def inference_variables(
    model: FastMask, variables: Mapping[str, Any], precision: str = "float32", platform: str = "cpu"
) -> dict[str, Any]:
    """Returns variables with which `propose` computes the same proposals faster.

    Args:
      model: the network.
      variables: its collections, as trained.
      precision: precision of the products, "float32" or "bfloat16": the latter stores their kernels as bfloat16 (see
        `products.product_dtype`).
      platform: platform of the devices: for "cpu", the transform with which windows are scored there is added as
        collection `spectra`.
    """
    by_transform = model.score_form == "fourier" or (model.score_form == "auto" and platform == "cpu")
    scored_all = not model.objectness_attention_width  # otherwise only the attended windows are, without the transform

    return {**variables, **_converted(variables["params"], precision, by_transform and scored_all)}


@partial(jax.jit, static_argnums=(1, 2))
def _converted(params: Mapping[str, Any], precision: str, by_transform: bool) -> dict[str, Any]:
    new = {}
    if precision != "float32":
        new["params"] = jax.tree_util.tree_map_with_path(
            lambda path, array: array.astype(precision) if _in_product(path) else array, params
        )
    if by_transform:
        spectrum = kernel_spectrum(params["objectness"]["fc1"]["kernel"]).astype(precision)
        new["spectra"] = {"objectness": {"fc1": {"kernel": spectrum}}}
    return new


def _in_product(path: tuple[Any, ...]) -> bool:
    names = [entry.key for entry in path]
    return names[-1] == "kernel" and not any(name in _KEPT for name in names)
