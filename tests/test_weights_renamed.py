"""Files and runs of earlier versions load under the current names."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save_file

from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import TrainState
from fastmask_jax.weights.checkpoints import Checkpoints
from fastmask_jax.weights.fetching import BUNDLED
from fastmask_jax.weights.native import restore_model
from fastmask_jax.weights.renamed import current_config
from fastmask_jax.weights.safetensors_file import CONFIG
from fastmask_jax.weights.sources import config_of, load_trained
from tests import tiny
from tests.plain_network import random_variables

OLD_CONFIG = {  # config of a tiny network in version 0.1.0, without the keys that kept their names
    "model": {"body": {"flavour": "caffe", "middle_step": 1, "stream_steps": [2, 3], "frozen_stages": 2}},
    "data": {"parts": True, "colour": 0.3, "copies": 3},
    "labels": {"centre": 0.2},
    "optimizer": {"rule": "adam", "momentum": 0.8},
    "train": {"measure_norms": 2},
    "evaluation": {"demote_iou": 0.7, "long_edge": 96},
}
AS_BEFORE = {
    "extra_thresholds": [],
    "tile": "off",
    "tile_overlap": 0.25,
    "max_pixels": 64_000_000,
    "precision": "float32",
}
NEW_CONFIG = {
    "model": {
        "mask_conv_width": 0,
        "objectness_attention_width": 0,
        "attended_windows": 4096,
        "body": {"flavor": "caffe", "middle_stride": 1, "stream_strides": [2, 3]},
    },
    "data": {"random_crop": True, "color_jitter": 0.3, "copy_paste": 3},
    "labels": {"center": 0.2},
    "optimizer": {"name": "adam", "momentum": 0.8, "b1": 0.8, "bias_factor": 1.0},
    "train": {"norm_calibration_images": 2},
    "evaluation": {"rerank_iou": 0.7, "long_edges": [96], "stability_weight": 0.0, "exif": "ignore"} | AS_BEFORE,
}


def old_name(name: str, separator: str) -> str:
    old = {"neck": "halve", "lateral": "reduce"}
    return separator.join(old.get(part, part) for part in name.split(separator))


def old_keys(tree):
    """Returns a tree of dictionaries, named tuples and arrays with the earlier names of submodules."""
    if isinstance(tree, dict):
        return {old_name(key, "/"): old_keys(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return type(tree)(*map(old_keys, tree)) if hasattr(tree, "_fields") else tuple(map(old_keys, tree))
    return tree


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.config(tiny.dataset(tmp_path_factory.getbasetemp()), model__strides=(8, 12, 16))


@pytest.fixture(scope="module")
def variables(config):
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    model = build_model(config.model.to_dict())
    return random_variables(model, jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64), windows, windows)


def assert_same(found, wanted):
    found, wanted = (traverse_util.flatten_dict(tree, sep=".") for tree in (found, wanted))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def test_keys_by_hand():
    assert current_config(OLD_CONFIG) == NEW_CONFIG
    assert current_config(NEW_CONFIG) == NEW_CONFIG
    assert "workers" not in current_config({"evaluation": {"workers": 2}})["evaluation"]
    assert current_config({"evaluation": {}, "mine": {"rule": 3}}) == {
        "evaluation": {"stability_weight": 0.0, "rerank_iou": 1.0, "exif": "ignore"} | AS_BEFORE,
        "mine": {"rule": 3},
    }


def older(config) -> dict:
    """Returns the config as saved by version 0.1.0."""
    plain = json.loads(config.to_json_best_effort())
    for section, keys in OLD_CONFIG.items():
        new = NEW_CONFIG[section]
        if section == "model":
            section, keys, new, part = "body", keys["body"], new["body"], plain["model"]
        else:
            part = plain
        for old, key in zip(keys, new, strict=False):
            part[section][old] = part[section].pop(key)
    del plain["optimizer"]["b1"]
    return plain


def test_an_exported_file(config, variables, tmp_path):
    arrays = {name: np.array(leaf) for name, leaf in traverse_util.flatten_dict(variables, sep=".").items()}
    old = {old_name(name, "."): array for name, array in arrays.items()}
    assert "params.halve.conv1.kernel" in old and "params.reduce.bias" in old
    path = tmp_path / "old.safetensors"
    save_file(old, path, {CONFIG: json.dumps(older(config))})
    found = config_of(str(path))
    assert found.to_dict() == config.to_dict()
    assert_same(load_trained(str(path), found.model.to_dict()).variables, variables)


def test_a_run_goes_on(config, variables, tmp_path):
    """Includes the optimizer's state; renamed settings do not count as changed."""
    optimizer, _ = build_optimizer(config.optimizer.to_dict(), config.train.batch_size, config.train.images)
    opt_state = optimizer.update(variables["params"], optimizer.init(variables["params"]), variables["params"])[1]
    state = TrainState(step=jnp.int32(5), opt_state=opt_state, **variables)
    saved = TrainState(**{name: old_keys(getattr(state, name)) for name in state.__dataclass_fields__})
    checkpoints = Checkpoints(tmp_path, older(config))
    checkpoints.save(saved)
    checkpoints.close()
    (tmp_path / "config.json").write_text(json.dumps(older(config)))

    checkpoints = Checkpoints(tmp_path, config.to_dict())
    found = checkpoints.restore(jax.eval_shape(lambda: state), 5)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), found, state)
    assert checkpoints.changes(5) == []
    checkpoints.close()
    assert_same(restore_model(config, tmp_path)[1], variables)
    assert config_of(str(tmp_path)).to_dict() == config.to_dict()
    assert_same(load_trained(str(tmp_path), config.model.to_dict()).variables, variables)
    shutil.rmtree(tmp_path / "checkpoints")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_networks_have_todays_names(name):
    """Their arrays need no renaming, and their config has every key of the config that made them."""
    with safe_open(BUNDLED[name], framework="numpy") as file:
        names, config = set(file.keys()), json.loads(file.metadata()[CONFIG])
    model = build_model(config_of(name).model.to_dict())
    shapes = jax.eval_shape(lambda: initial_variables(model, 0))
    assert names == set(traverse_util.flatten_dict(shapes, sep="."))
    config = current_config(config)
    today = json.loads(load_config(name).to_json_best_effort())
    assert config["model"].keys() == today["model"].keys() and config["evaluation"].keys() == today["evaluation"].keys()
