"""export.py with ONNX: onnxruntime gives the same results as the network."""

import json
import math

import jax
import jax.numpy as jnp
import pytest

from fastmask_jax.apps.command_line import export
from fastmask_jax.export.onnx_file import write_onnx
from fastmask_jax.export.spec import ExportSpec
from fastmask_jax.models.efficientnet import EfficientNetLite
from fastmask_jax.models.fastmask import FastMask
from tests.test_export import (
    SIZES,
    K,
    assert_same,
    check_example,
    draw,
    expected,
    images,
    network,
    own_weights,
    photo,
    with_objectness_attention,
)

_ = network, own_weights, photo  # fixtures that pytest finds by name in this module
REASON = "needs requirements-export.txt"


@pytest.fixture
def onnxruntime():
    pytest.importorskip("jax2onnx", reason=REASON)
    return pytest.importorskip("onnxruntime", reason=REASON)


def session(onnxruntime, path):
    started = onnxruntime.InferenceSession(path)
    return started, json.loads(started.get_modelmeta().custom_metadata_map["fastmask_jax"])


def largest_array(path):
    """Returns the size of a graph's largest array, which is a weight unless a constant has the size of a map."""
    import onnx

    return max(math.prod(array.dims) for array in onnx.load(path).graph.initializer)


def test_any_number_of_images_by_the_command_and_the_example(onnxruntime, own_weights, network, photo, tmp_path):
    _, model, variables = network
    out = tmp_path / "net.onnx"
    arguments = ["--weights", str(own_weights), "--format", "onnx", "--size", "64x96", "--batch", "any"]
    assert export.main([*arguments, "--proposals", str(K), "--out", str(out)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]  # no second file for the weights
    started, about = session(onnxruntime, out)
    assert (about["batch"], about["padded_size"], about["strides"]) == (None, [64, 96], [8, 12])
    for count in (1, 3):
        image, size = images(count), SIZES[:count]
        assert_same(started.run(None, {"image": image, "size": size}), expected(model, variables, image, size))
    check_example("run_onnx.py", out, photo, tmp_path / "out", network)


def test_a_listed_batch_of_the_fast_body(onnxruntime, tmp_path):
    """Every window scored as a convolution, and more proposals than windows."""
    body = EfficientNetLite(channels=(4,) * 6, depths=(1,) * 5, features=6)
    widths = {"channels": 4, "neck_hidden": 4, "mask_width": 8, "objectness_widths": (8, 8)}
    model = FastMask(body, strides=(16, 24), score_form="conv", **widths)
    variables = draw(model)
    write_onnx(tmp_path / "net.onnx", model, variables, ExportSpec(64, 96, 2, 60, 96, 0.4))
    started, about = session(onnxruntime, tmp_path / "net.onnx")
    assert about["batch"] == 2 and [entry.shape[0] for entry in started.get_inputs()] == [2, 2]
    image, size = images(2), SIZES[:2]
    found, wanted = started.run(None, {"image": image, "size": size}), expected(model, variables, image, size, 60)
    real = wanted[0] >= 0
    assert largest_array(tmp_path / "net.onnx") <= max(leaf.size for leaf in jax.tree.leaves(variables))
    assert real.sum(1).tolist() == [35 + 20, 28 + 15] and (found[0][~real] == -1).all()
    for row, count in enumerate(real.sum(1)):
        assert_same([x[row, :count] for x in found], [x[row, :count] for x in wanted])


def check_two_images(onnxruntime, path, model, variables):
    started, _ = session(onnxruntime, path)
    image, size = images(2), SIZES[:2]
    assert_same(started.run(None, {"image": image, "size": size}), expected(model, variables, image, size))


@pytest.mark.parametrize(("opset", "batch"), [(13, 2), (17, None), (24, 2)])
def test_other_operators(onnxruntime, network, tmp_path, opset, batch):
    import onnx

    _, model, variables = network
    write_onnx(tmp_path / "net.onnx", model, variables, ExportSpec(64, 96, batch, K, 96, 0.4), opset)
    versions = {entry.domain: entry.version for entry in onnx.load(tmp_path / "net.onnx").opset_import}
    assert versions[""] == opset
    check_two_images(onnxruntime, tmp_path / "net.onnx", model, variables)


def test_an_opset_that_cannot_be_written_is_refused(network, tmp_path):
    pytest.importorskip("jax2onnx", reason=REASON)
    _, model, variables = network
    with pytest.raises(ValueError, match="--opset 12 is not one of 13 to 24"):
        write_onnx(tmp_path / "net.onnx", model, variables, ExportSpec(64, 96, 2, K, 96, 0.4), 12)


def test_a_network_with_objectness_attention(onnxruntime, network, tmp_path):
    model, variables = with_objectness_attention(network[1])
    write_onnx(tmp_path / "net.onnx", model, variables, ExportSpec(64, 96, 2, K, 96, 0.4))
    check_two_images(onnxruntime, tmp_path / "net.onnx", model, variables)


def test_half_precision_is_refused(network, tmp_path):
    pytest.importorskip("jax2onnx", reason=REASON)
    _, model, variables = network
    with pytest.raises(ValueError, match=r"bfloat16.*--config.model.dtype=float32"):
        write_onnx(tmp_path / "net.onnx", model.clone(dtype=jnp.bfloat16), variables, ExportSpec(64, 96, 1, K, 96, 0.4))


def test_without_the_extra(network, tmp_path, monkeypatch):
    _, model, variables = network
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-export.txt"):
        write_onnx(tmp_path / "net.onnx", model, variables, ExportSpec(64, 96, 1, K, 96, 0.4))
    assert not list(tmp_path.iterdir())
