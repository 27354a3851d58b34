"""Bundled networks, and networks in half precision."""

import jax
import numpy as np
import pytest
from flax import traverse_util

import fastmask_jax
from fastmask_jax.configuration import load_config
from fastmask_jax.data.shapes.dataset import ShapesSpec, draw
from fastmask_jax.evaluation.evaluate import evaluate
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.weights.fetching import BUNDLED
from fastmask_jax.weights.safetensors_file import read_safetensors, write_safetensors
from fastmask_jax.weights.sources import config_of, load_trained, parse_spec
from tests.coco_mini import COCO_MINI, needs_coco_mini
from tests.tiny import ROOT

MODEL = {"model": {"body": {}}}


def test_half_precision_rounds_kernels_alone(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "params": {
            "mask": {"kernel": rng.normal(size=(30, 40)).astype("f4"), "bias": rng.normal(size=40).astype("f4")}
        },
        "frozen_stats": {"mask": {"var": np.array([1e6, 1e-9], "f4")}},
        "batch_stats": {"weight": np.array(70_000.5, "f4")},
    }
    assert write_safetensors(tmp_path / "half.safetensors", arrays, MODEL, half=True) == 4
    found = read_safetensors(tmp_path / "half.safetensors").arrays
    for name, array in traverse_util.flatten_dict(arrays, sep=".").items():
        if name.endswith("kernel"):
            assert found[name].dtype == np.float16
            np.testing.assert_allclose(found[name], array, rtol=2**-11)
        else:
            np.testing.assert_array_equal(found[name], array, strict=True)


def test_half_precision_refuses_what_it_cannot_hold(tmp_path):
    variables = {"params": {"mask": {"kernel": np.full((2, 2), 7e4, "f4")}}}
    with pytest.raises(ValueError, match=r"params.mask.kernel has values beyond the range of float16"):
        write_safetensors(tmp_path / "half.safetensors", variables, MODEL, half=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "megabytes"), [("shapes", 6), ("coco_few", 17)])
def test_names_of_networks_of_a_few_megabytes(name, megabytes, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_spec(name).path == BUNDLED[name] and BUNDLED[name].stat().st_size < megabytes * 1e6
    assert parse_spec(f"{name}:body").body_only
    assert parse_spec(f"./{name}").path.is_dir()
    config = config_of(name, ["--config.evaluation.proposals=50"])
    assert config.evaluation.proposals == 50
    model = load_config(str(ROOT / "configs" / f"{name}.py")).model.to_dict()
    assert config.model.to_dict() == model
    variables = load_trained(name, model).variables
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("f4")}


def test_a_name_that_is_none_of_them():
    with pytest.raises(FileNotFoundError, match=r"no file or folder shape, .*\(coco_few, shapes\)"):
        parse_spec("shape")


@needs_coco_mini
def test_coco_few_finds_objects_of_photographs_it_never_saw(tmp_path):
    """The ellipse baseline reaches .067 on these eight images (fastmask_jax.evaluation.ellipse_baseline)."""
    config = load_config(str(ROOT / "configs" / "coco_few.py"))
    network = load_trained("coco_few", config.model.to_dict())
    split = {
        "evaluation.annotations": str(COCO_MINI / "annotations" / "instances_val.json"),
        "evaluation.images": str(COCO_MINI / "images"),
        "evaluation.limit": 8,
        "evaluation.long_edges": (864,),
        "evaluation.buckets": ((864, 864),),
    }
    config.unlock().update_from_flattened_dict(split)
    generator = ProposalGenerator(network.model, network.variables, config)
    metrics = evaluate(generator, tmp_path / "proposals.json", print)
    assert metrics["segm/AR@100"] > 0.1


def test_shapes_finds_drawn_objects():
    """Drawings from seeds that no dataset uses; the whole image as a mask has an IoU of about 0.15."""
    generator = fastmask_jax.load("shapes", compilation_cache=False, report=print)
    spec = ShapesSpec(image_sizes=((240, 320),), objects=(3, 4), side=(70.0, 160.0), small_share=0.0)
    best = []
    for number in range(3):
        drawn = draw(spec, (20260101, number))
        masks = generator.propose(drawn.image, count=300).masks().reshape(-1, 240 * 320).astype(np.float32)
        objects = drawn.masks.reshape(-1, 240 * 320).astype(np.float32)
        common = objects @ masks.T
        best += (common / (objects.sum(1)[:, None] + masks.sum(1) - common)).max(1).tolist()
    assert np.mean(best) > 0.6, best
