"""Type and range of every setting of a config: the one place where configs are checked.

Tables have a row for each setting. A body of your own is a row of BODIES, a neck a row of NECKS (docs/extending.md).
No JAX here: commands check configs before it starts, so the tables name the code of a body or neck.
"""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastmask_jax.errors import InvalidInput, printable, shown
from fastmask_jax.geometry import MULTIPLE
from fastmask_jax.setting_kinds import (
    Flag,
    Integer,
    Kind,
    Name,
    NameOrInteger,
    Number,
    Several,
    Text,
    nearest_name,
)

MOST_LONG_EDGE = 8_192  # of a resized image, which takes 0.8 GB as float32 RGB
MOST_PROPOSALS = 100_000  # about the number of windows of such an image
MOST_IMAGES = 256  # in a device's batch at inference
MOST_WORKERS = 256  # processes
_MOST_CHANNELS = 16_384
_MOST_WINDOWS = 65_536  # sampled windows per image
_FOREVER = 10**12  # images or steps


@dataclass(frozen=True)
class Body:
    """A body of the network: its module, and the settings in `model.body` with their types and ranges."""

    module: Callable[..., Any] | str  # "package.module:Name" is imported when the network is built
    settings: Mapping[str, Kind]


NECKS: dict[str, Callable[..., Any] | str] = {
    "residual": "fastmask_jax.models.neck:residual",
    "average": "fastmask_jax.models.neck:average",
    "max": "fastmask_jax.models.neck:maximum",
    "feedforward": "fastmask_jax.models.neck:feedforward",
}
HEADS = ("attentional", "standard")
FLAVORS = ("caffe", "torchvision")
DTYPES = ("float32", "bfloat16")
PRECISIONS = ("float32", "bfloat16")
TRAIN_FORMS = ("gather", "patches")
SCORE_FORMS = ("auto", "fourier", "patches", "conv")
SCORE_TARGETS = ("label", "iou")
OPTIMIZERS = ("momentum", "adam")
SCHEDULES = ("step", "cosine")
BATCH_SCALINGS = ("linear", "sqrt", "none")
EXIF = ("ignore", "apply")
OFF, AUTO = "off", "auto"  # values of `evaluation.tile`
LEAST_TILE = 64  # pixels

_WIDTH = Integer(1, _MOST_CHANNELS)
_WIDTH_OR_NONE = Integer(0, _MOST_CHANNELS)
_COUNT = Integer(0, _MOST_WINDOWS)
_EVERY = Integer(0, _FOREVER)
_WEIGHT = Number(0, 1e6)
_DECAY = Number(0, 1, open=")")
_SIDE = Integer(MULTIPLE, MOST_LONG_EDGE)
_BUCKETS = Several(Several(Integer(MULTIPLE, MOST_LONG_EDGE, of=MULTIPLE), length=2))
_STREAMS = {"stream_strides": Several(Integer(1, 16), ascending=True), "train_norms": Flag(), "remat": Flag()}

BODIES: dict[str, Body] = {
    "resnet": Body(
        "fastmask_jax.models.resnet:ResNet",
        {
            "width": _WIDTH,
            "depths": Several(Integer(1, 200), length=3),
            "middle_stride": Integer(1, 2),
            "flavor": Name(FLAVORS),
            **_STREAMS,
        },
    ),
    "efficientnet_lite": Body(
        "fastmask_jax.models.efficientnet:EfficientNetLite",
        {
            "channels": Several(_WIDTH),
            "depths": Several(Integer(1, 200)),
            "features": _WIDTH,
            **_STREAMS,
        },
    ),
}

SECTIONS: dict[str, dict[str, Kind]] = {
    "model": {
        "strides": Several(Integer(1, 4_096), ascending=True),
        "channels": _WIDTH,
        "neck": Name(NECKS),
        "neck_hidden": _WIDTH,
        "head": Name(HEADS),
        "mask_width": _WIDTH,
        "mask_conv_width": _WIDTH_OR_NONE,
        "objectness_widths": Several(_WIDTH, length=2),
        "dropout": _DECAY,
        "objectness_attention_width": _WIDTH_OR_NONE,
        "attended_windows": Integer(1, 10 * MOST_PROPOSALS),
        "norm_decay": _DECAY,
        "train_form": Name(TRAIN_FORMS),
        "score_form": Name(SCORE_FORMS),
        "dtype": Name(DTYPES),
    },
    "data": {
        "records": Text(),
        "long_edges": Several(_SIDE, length=2),
        "buckets": _BUCKETS,
        "random_crop": Flag(),
        "color_jitter": Number(0, 1),
        "copy_paste": Integer(0, 100),
        "workers": Integer(0, MOST_WORKERS),
    },
    "labels": {
        "fit_low": Number(0, 2, open="("),
        "fit_high": Number(0, 2, open="("),
        "center": Number(0, 1, open="("),
        "score_positives": _COUNT,
        "score_negatives": _COUNT,
        "mask_positives": _COUNT,
        "finest_fit_low": Number(0, 2),
        "random_negatives": _COUNT,
        "ignore_unknown": Flag(),
    },
    "losses": {
        "objectness": _WEIGHT,
        "mask": _WEIGHT,
        "attention": _WEIGHT,
        "dice": _WEIGHT,
        "score_target": Name(SCORE_TARGETS),
        "hardest_negatives": _COUNT,
        "focal": Number(0, 100),
        "objectness_attention": _WEIGHT,
    },
    "optimizer": {
        "name": Name(OPTIMIZERS),
        "learning_rate": _WEIGHT,
        "reference_batch": Integer(1, _MOST_WINDOWS),
        "batch_scaling": Name(BATCH_SCALINGS),
        "schedule": Name(SCHEDULES),
        "warmup_images": _EVERY,
        "drop_images": Several(_EVERY, least=0, ascending=True),
        "drop_factor": Number(0, 1),
        "momentum": _DECAY,
        "b1": _DECAY,
        "weight_decay": _WEIGHT,
        "clip_norm": _WEIGHT,
        "body_factor": _WEIGHT,
        "bias_factor": _WEIGHT,
        "average_decay": _DECAY,
    },
    "train": {
        "batch_size": Integer(1, _MOST_WINDOWS),
        "images": _EVERY,
        "norm_calibration_images": Integer(0, 1_024),
        "log_every": _EVERY,
        "checkpoint_every": _EVERY,
        "keep_checkpoints": Integer(1, 10_000),
        "picture_every": _EVERY,
        "evaluate_every": _EVERY,
    },
    "evaluation": {
        "annotations": Text(),
        "images": Text(),
        "exif": Name(EXIF),
        "long_edges": Several(_SIDE),
        "buckets": _BUCKETS,
        "batch_size": Integer(1, MOST_IMAGES),
        "proposals": Integer(1, MOST_PROPOSALS),
        "mask_threshold": Number(0, 1, open="()"),
        "extra_thresholds": Several(Number(0, 1, open="()"), least=0),
        "stability_weight": Number(0, 100),
        "rerank_iou": Number(0, 1),
        "limit": Integer(0, _FOREVER),
        "tile": NameOrInteger((OFF, AUTO), Integer(LEAST_TILE, 1_000_000)),
        "tile_overlap": Number(0, 500_000),
        "max_pixels": Integer(1, _FOREVER),
        "precision": Name(PRECISIONS),
    },
}
_SEED = Integer(0, 2**32 - 1)  # seed of a JAX key
_EXTRA = {"records": Text(), "weight": Number(0, 1_000, open="("), "partly_labeled": Flag()}  # data.extra.NAME
_NETWORK = ("model", "evaluation")  # the sections that inference reads
_COMPLETE = "start from a bundled config, as configs/shapes.py does"


def check_config(config: Mapping[str, Any], training: bool = False) -> None:
    """Checks every setting of a config.

    Args:
      config: its sections, as dicts.
      training: check all sections and refuse unknown keys. Otherwise, only the sections that inference reads are
        checked, because a network's file may come from another version of this project.

    Raises:
      ValueError: an unknown or missing setting, another type, or a value out of range; one line that names the setting
        and the nearest allowed value.
    """
    names = tuple(SECTIONS) if training else _NETWORK
    if training:
        _check_keys("", config, ("seed", *names))
        _SEED.check("seed", config["seed"])
    for name in names:
        section = config.get(name)
        if not isinstance(section, Mapping):
            raise InvalidInput(f"the config has no section {name}: {_COMPLETE}")
        if name == "model":
            check_model(section)
            continue
        if name == "data":
            _check_extra(section.get("extra"))
            section = {key: value for key, value in section.items() if key != "extra"}
        _check_section(name, section, SECTIONS[name], others=not training)
    if training:
        _check_relations(config)


def check_model(model: Mapping[str, Any]) -> None:
    """Checks the `model` section of a config, with its `body`; raises as `check_config`."""
    if model.get("dtype") == "float16":
        raise InvalidInput("model.dtype='float16' overflows without a scaled loss: 'bfloat16' has float32's range")
    body = model.get("body")
    if not isinstance(body, Mapping) or "kind" not in body:
        raise InvalidInput(f"the config has no model.body.kind: {_COMPLETE}")
    Name(BODIES).check("model.body.kind", body["kind"])
    _check_section("model.body", {key: body[key] for key in body if key != "kind"}, BODIES[body["kind"]].settings)
    _check_section("model", {key: model[key] for key in model if key != "body"}, SECTIONS["model"])


def implementation(code: Callable[..., Any] | str) -> Callable[..., Any]:
    """Returns the function or module of a row of NECKS or BODIES; imports it where the row names it."""
    return pkgutil.resolve_name(code) if isinstance(code, str) else code


def check_section(name: str, settings: Mapping[str, Any]) -> None:
    """Checks the settings of one section, such as "optimizer"; raises as `check_config`."""
    for key, value in settings.items():
        SECTIONS[name][key].check(f"{name}.{key}", value)


def _check_section(name: str, settings: Mapping[str, Any], kinds: Mapping[str, Kind], others: bool = False) -> None:
    _check_keys(f"{name}.", settings, tuple(kinds), others)
    for key, kind in kinds.items():
        kind.check(f"{name}.{key}", settings[key])


def _check_keys(prefix: str, settings: Mapping[str, Any], known: Sequence[str], others: bool = False) -> None:
    for key in settings:
        if key not in known and not others:
            near = nearest_name(key, known)
            hint = f"; did you mean {prefix}{near}?" if near else ""
            raise InvalidInput(f"{printable(prefix + key)}: no such setting{hint}")
    missing = [key for key in known if key not in settings]
    if missing:
        raise InvalidInput(f"the config has no {prefix}{missing[0]}: {_COMPLETE}")


def _check_extra(extra: Any) -> None:
    sets = extra.items() if isinstance(extra, Mapping) else [("NAME", extra)]
    for name, one in sets:
        if not isinstance(one, Mapping):
            raise InvalidInput(f"data.extra.{printable(name)}={shown(one)}: expected a section with {list(_EXTRA)}")
        _check_section(f"data.extra.{printable(name)}", one, _EXTRA)


def _check_relations(config: Mapping[str, Any]) -> None:
    """Checks constraints between settings."""
    smallest, largest = config["data"]["long_edges"]
    if smallest > largest:
        raise InvalidInput(f"data.long_edges={(smallest, largest)}: expected the smallest first: {(largest, smallest)}")
    labels = config["labels"]
    for low in ("fit_low", "finest_fit_low"):
        if labels[low] >= labels["fit_high"]:
            raise InvalidInput(f"labels.{low}={labels[low]} must be below labels.fit_high={labels['fit_high']}")
    if config["losses"]["score_target"] == "iou" and labels["mask_positives"] < labels["score_positives"]:
        raise InvalidInput(
            f"losses.score_target='iou' needs a mask for every scored positive: labels.mask_positives="
            f"{labels['mask_positives']} must be at least labels.score_positives={labels['score_positives']}"
        )
