"""Reads .caffemodel files with the authors' layer names (docs/network.md §4), or those of the same group's ResNet-50.

Shared layers are stored several times. The first copy in the order below, that of the finest level, is loaded; the
others are compared with it.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import UPSCALE, upscale_matrix
from fastmask_jax.weights.caffe_proto import read_layers
from fastmask_jax.weights.mapping import (
    CONV,
    DENSE,
    POINTWISE,
    SHOWN,
    VECTOR,
    WINDOW_DENSE,
    Found,
    Layout,
    Shape,
    Stored,
    no_place,
    part_of,
    translate,
)

ChannelOrder = Literal["rgb", "bgr"]
_STEM = "params.body.stem.kernel"
_UPSCORE = "upscore"
_NECK_STEPS = range(6, 10)  # conv6_1 … conv9_1: the necks after the first one
_LEVEL = re.compile(r"conv_feat_1_(\d+)s")


class _Weights(NamedTuple):
    """A layer of this project with kernel and optional bias, and the names of its copies."""

    ours: str
    layout: Layout
    names: tuple[str, ...]


class _Norm(NamedTuple):
    """A batch norm of this project, and the names of the copies of its statistics and of its scale and shift."""

    ours: str
    collection: str
    statistics: tuple[str, ...]
    scales: tuple[str, ...]


def read_caffe(
    path: Path, model: Mapping[str, Any], shapes: Mapping[str, Shape], order: ChannelOrder | None = None
) -> Found:
    """Reads the arrays of the authors' two-stream network, or of a ResNet-50 body.

    Args:
      path: a .caffemodel file.
      model: the config's `model` section; widths and depths need not be the published ones.
      shapes: shapes of the network's arrays.
      order: color order of the file's first layer; None: RGB for the authors' network, and BGR, as in Caffe's ImageNet
        models, for a body alone.

    Raises:
      FileNotFoundError, ValueError: the file is missing, or its content does not fit; one line.
    """
    body = model["body"]
    if body["kind"] != "resnet" or body["flavor"] != "caffe":
        kind = f"{body['kind']} body" + (f" of flavor {body['flavor']}" if body["kind"] == "resnet" else "")
        raise InvalidInput(
            f"{path}: a .caffemodel fits a resnet body of flavor caffe (configs/coco.py); the config has a {kind}"
        )
    layers = read_layers(path)
    for stage, depth in zip((2, 3, 4), body["depths"], strict=True):
        further = f"res{stage}{_letter(depth)}_branch2a"
        if further in layers:
            raise InvalidInput(no_place(str(path), further, layers[further][0].shape, body["depths"]))
    rows = list(_rows(body["depths"], _levels_in(layers)))
    norms = {name for row in rows if isinstance(row, _Norm) for name in row.statistics}
    arrays: dict[str, np.ndarray] = {}
    for name, blobs in layers.items():
        arrays |= _statistics(path, name, blobs) if name in norms else {f"{name}[{n}]": b for n, b in enumerate(blobs)}

    table: dict[str, Stored] = {}
    copies: list[tuple[str, str]] = []  # (copy, the loaded layer)
    for row in rows:
        for names in [row.names] if isinstance(row, _Weights) else [row.statistics, row.scales]:
            first, *others = [name for name in names if name in layers] or names[:1]
            copies += [(other, first) for other in others]
        table |= _table(row, layers)

    found = translate(str(path), arrays, table, shapes)
    notes = _compared(arrays, copies)
    body_alone = all(part_of(name) == "body" for name in found)
    order = order or ("bgr" if body_alone else "rgb")
    if order == "bgr" and _STEM in found:
        found[_STEM] = found[_STEM][:, :, ::-1]
        notes.append("its first layer is taken to want BGR, and is turned to RGB (give FILE:rgb if it wants RGB)")
    levels = _levels_in(layers)
    if levels and set(levels) != set(model["strides"]):
        notes.append(
            f"the file's network has levels {levels}, the config's {sorted(model['strides'])}: the weights serve both"
        )
    used = {stored.name for name, stored in table.items() if name in found}
    counted = {copy for copy, first in copies if first in {_layer(name) for name in used}}
    used |= {name for name in arrays if _layer(name) in counted}
    notes += _check_upscore(arrays, used)
    counts = {name for name in arrays if name.endswith(".count")}
    return Found(str(path), found, sorted(arrays.keys() - used - counts), notes)


def _rows(depths: Sequence[int], levels: Sequence[int]) -> Iterator[_Weights | _Norm]:
    yield _Weights("body.stem", CONV, ("conv1",))
    yield _frozen("body.stem_norm", ("_conv1",))
    for stage, depth in zip((2, 3, 4), depths, strict=True):
        streams = ("", "_div3") if stage == 4 else ("",)
        for n in range(depth):
            block = f"body.stage{stage}_block{n + 1}"
            for ours, norm, branch in (
                ("conv1", "norm1", "2a"),
                ("conv2", "norm2", "2b"),
                ("conv3", "norm3", "2c"),
                ("project", "project_norm", "1"),
            ):
                suffixes = tuple(f"{stage}{_letter(n)}_branch{branch}{stream}" for stream in streams)
                layout = CONV if ours == "conv2" else POINTWISE
                yield _Weights(f"{block}.{ours}", layout, tuple(f"res{suffix}" for suffix in suffixes))
                yield _frozen(f"{block}.{norm}", suffixes)
    for ours, layout, kind, first in (("neck.conv1", CONV, 1, "conv5_4"), ("neck.conv2", POINTWISE, 2, "conv5_5")):
        steps = [first, *(f"conv{step}_{kind}" for step in _NECK_STEPS)]
        yield _Weights(ours, layout, tuple(f"{step}{stream}" for step in steps for stream in ("", "_div3")))
    yield _Weights("lateral", POINTWISE, tuple(f"conv_feat_1_{level}s" for level in levels) or ("conv_feat_1_16s",))
    yield _Norm("window_norm", "batch_stats", ("sample_bn",), ("sample_scale",))
    yield _Weights("objectness.fc1", WINDOW_DENSE, ("cls_1",))
    yield _Weights("objectness.fc2", DENSE, ("cls_2",))
    yield _Weights("objectness.score", DENSE, ("obj_score",))
    yield _Weights("mask.attention", WINDOW_DENSE, ("att",))
    yield _Weights("mask.fc1", WINDOW_DENSE, ("seg_1",))
    yield _Norm("mask.norm", "frozen_stats", ("seg_1_bn",), ("seg_1_scale",))
    yield _Weights("mask.fc2", DENSE, ("seg_2",))


def _frozen(ours: str, suffixes: tuple[str, ...]) -> _Norm:
    return _Norm(ours, "frozen_stats", tuple(f"bn{s}" for s in suffixes), tuple(f"scale{s}" for s in suffixes))


def _letter(block: int) -> str:
    return chr(ord("a") + block)


def _levels_in(layers: Mapping[str, Any]) -> list[int]:
    return sorted(int(match[1]) for match in map(_LEVEL.fullmatch, layers) if match)


def _table(row: _Weights | _Norm, layers: Mapping[str, Any]) -> dict[str, Stored]:
    """Maps the names of a layer's arrays to those of the loaded copy in the file."""

    def taken(names: tuple[str, ...]) -> str:
        return next((name for name in names if name in layers), names[0])

    if isinstance(row, _Weights):
        name = taken(row.names)
        return {
            f"params.{row.ours}.kernel": Stored(f"{name}[0]", row.layout),
            f"params.{row.ours}.bias": Stored(f"{name}[1]", VECTOR, default=0.0),
        }
    statistics, scale = taken(row.statistics), taken(row.scales)
    return {
        f"{row.collection}.{row.ours}.mean": Stored(f"{statistics}.mean", VECTOR),
        f"{row.collection}.{row.ours}.var": Stored(f"{statistics}.variance", VECTOR),
        f"batch_stats.{row.ours}.weight": Stored(f"{statistics}.count", VECTOR),
        f"params.{row.ours}.scale": Stored(f"{scale}[0]", VECTOR),
        f"params.{row.ours}.bias": Stored(f"{scale}[1]", VECTOR, default=0.0),
    }


def _statistics(path: Path, name: str, blobs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Decodes a stored batch norm: mean·f, variance·f, f; f sums the weights of the running averages, initially 0."""
    if len(blobs) != 3 or blobs[2].size != 1 or blobs[0].size != blobs[1].size:
        sizes = [blob.shape for blob in blobs]
        raise InvalidInput(
            f"{path}: batch norm {name} has arrays of shapes {sizes}; expected mean, variance and a factor"
        )
    factor = float(blobs[2].reshape(()))
    if not math.isfinite(factor):
        raise InvalidInput(f"{path}: batch norm {name} has the factor {factor}, which is not finite")
    share = 1 / factor if factor else 0.0
    return {
        f"{name}.mean": blobs[0] * share,
        f"{name}.variance": blobs[1] * share,
        f"{name}.count": np.float32(factor).reshape(()),
    }


def _compared(arrays: Mapping[str, np.ndarray], copies: Sequence[tuple[str, str]]) -> list[str]:
    """Reports in a line whether the copies of shared layers agree."""
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if not name.endswith(".count"):  # the factor does not change the average
            by_layer.setdefault(_layer(name), {})[name.removeprefix(_layer(name))] = array
    differing = []
    for copy, first in copies:
        difference = _difference(by_layer[copy], by_layer[first])
        if not difference <= 0:
            how = f"by {difference:.3g}" if difference < math.inf else "in shape, or by numbers that are none"
            differing.append((difference, f"{copy} from {first} {how}"))
    if not copies:
        return []
    if not differing:
        return [f"{len(copies)} further copies of shared layers agree with those taken"]
    differing.sort(key=lambda pair: -pair[0])
    shown = "; ".join(text for _, text in differing[:SHOWN]) + ("; …" if len(differing) > SHOWN else "")
    return [f"{len(differing)} of {len(copies)} further copies of shared layers differ from those taken, first {shown}"]


def _difference(copy: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> float:
    """Returns the largest difference between two layers' arrays; infinite if shapes differ or a value is NaN."""
    if copy.keys() != first.keys() or any(copy[key].size != first[key].size for key in copy):
        return math.inf
    with np.errstate(invalid="ignore"):
        largest = max(float(np.abs(copy[key].ravel() - first[key].ravel()).max()) for key in copy)
    return largest if np.isfinite(largest) else math.inf


def _check_upscore(arrays: Mapping[str, np.ndarray], used: set[str]) -> list[str]:
    """Returns a line if the file's upsampling differs from the fixed bilinear one; otherwise adds it to `used`."""
    kernel = arrays.get(f"{_UPSCORE}[0]")
    if kernel is None:
        return []
    along = upscale_matrix()[UPSCALE + UPSCALE // 2 : 3 * UPSCALE + UPSCALE // 2, 2]  # the weights of cell 2
    if kernel.size == along.size**2 and np.allclose(kernel.reshape(along.size, -1), np.outer(along, along), atol=1e-6):
        used.add(f"{_UPSCORE}[0]")
        return []
    return [f"its {_UPSCORE} is not the bilinear enlargement of the network, which is used all the same"]


def _layer(name: str) -> str:
    return re.sub(r"(\[\d+\]|\.mean|\.variance|\.count)$", "", name)
