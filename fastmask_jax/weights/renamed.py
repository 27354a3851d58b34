"""Translates names in networks and configs of earlier versions to the current ones."""

from collections.abc import Mapping
from typing import Any

PARTS = {"halve": "neck", "reduce": "lateral"}  # submodules of the network, in the names of its arrays
CONFIG_KEYS = {
    "model.body.flavour": "model.body.flavor",
    "model.body.middle_step": "model.body.middle_stride",
    "model.body.stream_steps": "model.body.stream_strides",
    "data.parts": "data.random_crop",
    "data.colour": "data.color_jitter",
    "data.copies": "data.copy_paste",
    "labels.centre": "labels.center",
    "optimizer.rule": "optimizer.name",
    "train.measure_norms": "train.norm_calibration_images",
    "evaluation.demote_iou": "evaluation.rerank_iou",
    "evaluation.long_edge": "evaluation.long_edges",
}
REMOVED = {"model.body.frozen_stages"}  # affected only training: saved networks do not depend on it
ADDED = {
    "evaluation": {
        "extra_thresholds": [],
        "stability_weight": 0.0,
        "rerank_iou": 1.0,
        "exif": "ignore",
        "tile": "off",
        "tile_overlap": 0.25,
        "max_pixels": 64_000_000,
        "precision": "float32",
    },
    "model": {"mask_conv_width": 0, "objectness_attention_width": 0, "attended_windows": 4096},
    "losses": {"objectness_attention": 0.25},
    "optimizer": {"bias_factor": 1.0},
}  # behavior of earlier versions, under keys that they did not have


def current_name(name: str, separator: str = ".") -> str:
    """Returns the current name of an array, such as "params.neck.conv1.kernel"."""
    return separator.join(PARTS.get(part, part) for part in name.split(separator))


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a whole config with current keys; unknown keys and values are unchanged."""
    new = _renamed(config, "")
    for section, keys in ADDED.items():
        if isinstance(new.get(section), dict):
            new[section] |= {key: value for key, value in keys.items() if key not in new[section]}
    model = new.get("model")
    if isinstance(model, dict) and model.get("score_form") == "gather":  # the same scores, more slowly
        model["score_form"] = "auto"
    evaluation = new.get("evaluation")
    if isinstance(evaluation, dict):
        evaluation.pop("workers", None)  # images are read in threads
        if isinstance(evaluation.get("long_edges"), int):
            evaluation["long_edges"] = [evaluation["long_edges"]]
    optimizer = new.get("optimizer")
    if isinstance(optimizer, dict) and "momentum" in optimizer:
        optimizer.setdefault("b1", optimizer["momentum"])  # earlier versions used it for adam
    return new


def _renamed(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    new = {}
    for key, value in section.items():
        if prefix + key in REMOVED:
            continue
        name = CONFIG_KEYS.get(prefix + key, prefix + key).rpartition(".")[2]
        new[name] = _renamed(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
    return new
