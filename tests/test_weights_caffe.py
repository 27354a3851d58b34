"""The authors' weight files: wire format, layouts, copies, and files that are damaged or do not fit."""

import tracemalloc
from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.weights import caffe_proto
from fastmask_jax.weights.caffe import read_caffe
from fastmask_jax.weights.caffe_proto import read_layers
from fastmask_jax.weights.mapping import put, shapes_of
from fastmask_jax.weights.sources import load_weights
from tests import caffe_network
from tests.caffe_network import net, random_body, random_network, record, varint
from tests.tiny import ROOT


@cache
def network(variant="", **changed):
    """Returns (model section, shapes of the variables) of the narrow network."""
    config = load_config(f"{ROOT}/configs/coco.py{variant}", caffe_network.command_line(**changed))
    model = config.model.to_dict()
    return model, jax.eval_shape(lambda: initial_variables(build_model(model), 0))


def read(path, layers, order=None, variant="", **changed):
    path.write_bytes(layers if isinstance(layers, bytes) else net(layers))
    model, variables = network(variant, **changed)
    return read_caffe(path, model, shapes_of(variables), order)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "net.caffemodel"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_both_record_formats_give_the_arrays_that_were_written(file, old, double):
    layers = {"a": [np.arange(6.0).reshape(2, 3), np.arange(3.0)], "b": [np.arange(16.0).reshape(2, 2, 2, 2)], "c": []}
    file.write_bytes(net(layers, old, double))
    found = read_layers(file)
    assert list(found) == ["a", "b"]
    for name, arrays in found.items():
        for array, written in zip(arrays, layers[name], strict=True):
            assert array.dtype == (np.float64 if double else np.float32)
            assert array.shape == ((1, 1, 1, *written.shape)[-4:] if old else written.shape)
            np.testing.assert_array_equal(array.reshape(written.shape), written)


def test_layouts(file):
    """Compares entry by entry: the output feature is first in the file and last here; windows are channel-major."""
    layers = random_network(np.random.default_rng(0))
    found = read(file, layers).arrays
    kernel, stored = found["params.body.stage2_block1.conv2.kernel"], layers["res2a_branch2b"][0]
    assert kernel[2, 0, 1, 3] == stored[3, 1, 2, 0]
    assert found["params.body.stage4_block2.conv3.kernel"][5, 40] == layers["res4b_branch2c"][0][40, 5, 0, 0]
    assert found["params.mask.attention.kernel"][7, 2, 4, 91] == layers["att"][0][91, 4 * 100 + 7 * 10 + 2]
    assert found["params.mask.fc2.kernel"][11, 1234] == layers["seg_2"][0][1234, 11]
    mean, variance, factor = layers["sample_bn"]
    np.testing.assert_allclose(found["batch_stats.window_norm.mean"], mean / factor, rtol=1e-6)
    np.testing.assert_allclose(found["batch_stats.window_norm.var"], variance / factor, rtol=1e-6)
    assert found["batch_stats.window_norm.weight"] == factor[0]  # the sum of the averages' weights, to resume training
    mean, _, factor = layers["seg_1_bn"]
    np.testing.assert_allclose(found["frozen_stats.mask.norm.mean"], mean / factor, rtol=1e-6)


def test_all_of_the_network_is_loaded_and_the_copies_agree(file):
    found = read(file, random_network(np.random.default_rng(0)))
    report = put(found, network()[1]).report
    assert report.initial == () and report.unused == ()
    layers = random_network(np.random.default_rng(0))
    copies = sum(name.endswith("_div3") and name.lstrip("resbncal").startswith("4") for name in layers)
    copies += 2 * (5 - 1) + (7 - 1)  # necks down to 32, 48, 64, 96, 128; levels
    assert found.notes == [f"{copies} further copies of shared layers agree with those taken"]


def test_copies_that_differ_are_told(file):
    layers = random_network(np.random.default_rng(0))
    other = layers["conv6_1_div3"][0].copy()
    other[1, 2, 0, 0] += 0.25
    layers["conv6_1_div3"] = [other, layers["conv6_1_div3"][1]]
    layers["conv_feat_1_64s"] = [layers["conv_feat_1_64s"][0][:3], layers["conv_feat_1_64s"][1]]
    found = read(file, layers)
    assert "2 of " in found.notes[0]
    assert "conv_feat_1_64s from conv_feat_1_16s in shape" in found.notes[0]
    assert "conv6_1_div3 from conv5_4 by 0.25" in found.notes[0]
    np.testing.assert_array_equal(found.arrays["params.neck.conv1.kernel"], layers["conv5_4"][0].transpose(2, 3, 1, 0))


def test_the_zoom_file_serves_the_network_without_its_level(file):
    found = read(file, random_network(np.random.default_rng(0), (*caffe_network.STRIDES, 192)))
    assert any("has levels [16, 24, 32, 48, 64, 96, 128, 192], the config's" in note for note in found.notes)
    assert not found.unused


def test_a_body_alone(file):
    """Layers beyond the fourth stage are unused; colors are converted from BGR unless stated otherwise."""
    layers = random_body(np.random.default_rng(0))
    layers["res5a_branch1"], layers["fc1000"] = [np.ones((8, 8, 1, 1))], [np.ones((10, 8)), np.ones(10)]
    found = read(file, layers)
    assert found.unused == ["fc1000[0]", "fc1000[1]", "res5a_branch1[0]"]
    stem = layers["conv1"][0].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found.arrays["params.body.stem.kernel"], stem[:, :, ::-1])
    assert any("BGR" in note for note in found.notes)
    np.testing.assert_array_equal(read(file, layers, "rgb").arrays["params.body.stem.kernel"], stem)
    report = put(found, network()[1]).report
    assert report.holds("body") and not report.holds("mask")
    assert {name.split(".")[1] for name in report.initial} == {
        "neck", "lateral", "window_norm", "objectness", "mask"
    }  # fmt: skip


def test_options_of_the_spec(file):
    layers = random_network(np.random.default_rng(0))
    file.write_bytes(net(layers))
    model, variables = network()
    stem = layers["conv1"][0].transpose(2, 3, 1, 0)
    whole = load_weights(str(file), model, variables)
    np.testing.assert_array_equal(whole.variables["params"]["body"]["stem"]["kernel"], stem)
    part = load_weights(f"{file}:body,bgr", model, variables)
    np.testing.assert_array_equal(part.variables["params"]["body"]["stem"]["kernel"], stem[:, :, ::-1])
    assert part.report.holds("body") and not part.report.holds("objectness")
    assert "params.mask.fc1.kernel" in part.report.unused
    assert isinstance(part.variables["params"]["mask"]["fc1"]["kernel"], jax.ShapeDtypeStruct)


def test_missing_biases_and_an_unused_norm_are_zero(file):
    layers = random_network(np.random.default_rng(0))
    layers["conv1"] = layers["conv1"][:1]
    layers["seg_1_bn"] = [*layers["seg_1_bn"][:2], np.zeros(1)]
    found = read(file, layers).arrays
    assert not found["params.body.stem.bias"].any() and found["params.body.stem.bias"].shape == (4,)
    assert not found["frozen_stats.mask.norm.mean"].any() and not found["frozen_stats.mask.norm.var"].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layers: layers.pop("cls_2"), r"cls_2\[0\] is absent, but must be \(24, 16\)"),
        (
            lambda layers: layers.update(cls_1=[np.ones((16, 700))]),
            r"cls_1\[0\] is \(16, 700\) in the file, .*\(16, 600\)",
        ),
        (lambda layers: layers.update(bn_conv1=layers["bn_conv1"][:2]), "batch norm bn_conv1 has arrays"),
        (lambda layers: layers["obj_score"][0].fill(np.nan), "params.objectness.score.kernel .*not finite"),
        (lambda layers: layers["bn_conv1"][1].fill(-1), "variance and would get negative"),
        (lambda layers: layers["bn_conv1"][2].fill(np.inf), "batch norm bn_conv1 has the factor inf"),
        (
            lambda layers: layers.update(res4c_branch2a=[np.ones((16, 64, 1, 1))]),
            r"res4c_branch2a is \(16, 64, 1, 1\) in the file and absent .*model.body.depths, \(2, 1, 2\) here",
        ),
    ],
)
def test_what_does_not_fit_is_named(file, change, said):
    layers = random_network(np.random.default_rng(0))
    change(layers)
    with pytest.raises(ValueError, match=said) as error:
        put(read(file, layers), network()[1])
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_body_of_another_flavor_is_refused(file):
    with pytest.raises(ValueError, match=r"flavor caffe .*has a resnet body of flavor torchvision"):
        read(file, random_body(np.random.default_rng(0)), variant=":torchvision")


def test_another_upscore_is_told(file):
    layers = random_network(np.random.default_rng(0))
    layers["upscore"] = [np.ones((1, 1, 8, 8))]
    assert any("upscore is not the bilinear" in note for note in read(file, layers).notes)


BROKEN = {
    "empty": b"",
    "text": b'name: "net" layer { name: "conv1" }',
    "no weights": net({"conv1": []}),
    "cut off": net({"conv1": [np.ones((4, 4))]})[:-3],
    "huge length": record(1, b"net") + varint(100 << 3 | 2) + varint(2**63) + b"abc",
    "endless number": b"\xff" * 40,
    "huge shape": record(
        100, record(1, b"a") + record(7, record(7, record(1, varint(2**40) * 3)) + record(5, b"1234"))
    ),
    "overflowing shape": record(
        100, record(1, b"a") + record(7, record(7, record(1, varint(2**63) + varint(0))) + record(5, b""))
    ),
    "too many sides": record(100, record(1, b"a") + record(7, record(7, record(1, b"\x01" * 40)) + record(5, b"1234"))),
    "odd bytes": record(100, record(1, b"a") + record(7, record(5, b"12345"))),
    "not packed": record(100, record(1, b"a") + record(7, varint(5 << 3 | 5) + b"1234")),
    "a group": varint(100 << 3 | 3) * 100_000,
}
TINY_FIELDS = {  # a few bytes each, which make objects of a hundred
    "unknown fields": record(100, record(1, b"a") + b"\x48\0" * 5000),
    "pieces of an array": record(100, record(1, b"a") + record(7, record(5, b"1234") * 5000)),
    "arrays": b"".join(record(100, record(1, b"%d" % n) + record(7, record(5, b"1234")) * 64) for n in range(60)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line(file, name):
    file.write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=str(file)) as error:
        read_layers(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("name", TINY_FIELDS)
def test_files_of_tiny_fields_do_not_fill_the_memory(file, name, monkeypatch):
    monkeypatch.setattr(caffe_proto, "_MOST_FIELDS", 3000)
    file.write_bytes(TINY_FIELDS[name])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"net.caffemodel: not a complete .caffemodel file: .*more than 3000 fields"):
        read_layers(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 500


def test_names_that_would_break_a_line_are_escaped(file):
    long = "c" * 10_000
    with pytest.raises(ValueError, match=r"conv1\\nres\\x1b") as error:
        read(file, {"conv1\nres\x1b[31m": [np.ones(1)], long: [np.ones(1)]})
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


WHOLE = net({"conv1": [np.ones((3, 2))], "res": [np.ones(3)]})


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.integers(1, len(WHOLE)))
def test_whatever_is_wrong_with_a_file_it_is_a_value_error(tmp_path_factory, changes, length):
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "changed.caffemodel"
    path.write_bytes(data[:length])
    try:
        layers = read_layers(path)
    except ValueError:
        return
    assert all(array.dtype in (np.float32, np.float64) for arrays in layers.values() for array in arrays)


def test_reading_copies_nothing(file):
    file.write_bytes(net({f"layer{n}": [np.zeros((1000, 1000), np.float32)] for n in range(8)}))
    tracemalloc.start()
    layers = read_layers(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(layers) == 8 and peak < 1e6  # of 32e6 bytes
