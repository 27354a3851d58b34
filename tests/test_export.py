"""export.py with JAX: the exported file, used without the project, equals the network; and errors."""

import json
import subprocess
import sys

import cv2
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from pycocotools import mask as coco_mask

from fastmask_jax.apps.command_line import export
from fastmask_jax.configuration import load_config, run_command
from fastmask_jax.export.jax_file import PLATFORMS, write_jax
from fastmask_jax.export.simplify import simplify
from fastmask_jax.export.spec import ExportSpec
from fastmask_jax.masks.paste import upsample
from fastmask_jax.masks.rle import masks_to_results
from fastmask_jax.models.build import build_model
from fastmask_jax.weights.safetensors_file import write_safetensors
from tests.plain_network import random_variables
from tests.tiny import CONFIG, ROOT

K = 8
SIZES = np.array([[64, 96], [48, 96], [64, 40]], np.int32)
NETWORK = [
    "--config.model.body.width=4",
    "--config.model.body.depths=(1, 1, 1)",
    "--config.model.strides=(8, 12)",
    "--config.model.channels=4",
    "--config.model.neck_hidden=4",
    "--config.model.mask_width=8",
    "--config.model.objectness_widths=(8, 8)",
    "--config.evaluation.long_edges=96",
    "--config.evaluation.buckets=((64, 96), (96, 96))",
]


def draw(model):
    """Returns random variables, with the mask's bias near the threshold and a small stem: logits of order one."""
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    variables = random_variables(model, jnp.zeros((1, 64, 96, 3)), jnp.array([[64, 96]]), windows, windows)
    stem = variables["params"]["body"]["stem"]
    stem["kernel"] = stem["kernel"] / 64
    return variables


def expected(model, variables, image, size, count=K):
    """Returns (scores, windows, masks) of the model; upsampling and sigmoid of the masks are by NumPy."""
    found = jax.jit(lambda v, i, s: model.apply(v, i, s, count, method="propose"))(variables, image, size)
    fine = np.stack([upsample(np.asarray(one)) for one in found.mask_logits])
    return np.asarray(found.scores), np.asarray(found.windows), 1 / (1 + np.exp(-fine.astype(np.float64)))


def assert_same(found, wanted):
    scores, windows, masks = wanted
    assert np.ptp(scores) > 1e-3 and np.ptp(masks) > 0.1  # otherwise the comparison would be weak
    np.testing.assert_allclose(found[0], scores, atol=1e-5)
    np.testing.assert_array_equal(found[1], windows)
    np.testing.assert_allclose(found[2], masks, atol=1e-4)


def images(count):
    return np.random.default_rng(1).uniform(0, 255, (count, 64, 96, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    config = load_config(CONFIG, NETWORK)
    model = build_model(config.model.to_dict())
    return config, model, draw(model)


@pytest.fixture(scope="module")
def own_weights(network, tmp_path_factory):
    config, _, variables = network
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    write_safetensors(path, variables, config.to_dict())
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """90x130 pixels: the network sees 64x96."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    coarse = np.random.default_rng(2).uniform(0, 255, (9, 13, 3)).astype(np.float32)
    image = np.clip(cv2.resize(coarse, (130, 90), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), image)
    return path


def check_example(script, exported, photo, out, network):
    """Runs a stand-alone example without access to the project, and compares its masks with the project's."""
    _, model, variables = network
    code = f"import sys; sys.argv = {[script, str(exported), str(photo), str(out)]}\n"
    code += (ROOT / "examples" / script).read_text()
    code += "\nassert not any(name.split('.')[0] in ('fastmask_jax', 'configs', 'flax') for name in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=out.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pixels = cv2.imread(str(photo))[:, :, ::-1].astype(np.float32)
    image = cv2.resize(pixels, (96, 64), interpolation=cv2.INTER_LINEAR)[None]
    found = jax.jit(lambda v, i, s: model.apply(v, i, s, K, method="propose"))(variables, image, SIZES[:1])
    scores, windows, logits = (np.asarray(x[0]) for x in (found.scores, found.windows, found.mask_logits))
    sizes = {"strides": model.strides, "resized": (64, 96), "original": (90, 130), "threshold": 0.4}
    assert len(done.stdout.splitlines()) == K
    for rank, line in enumerate(done.stdout.splitlines()):
        name, _, score, *_ = line.split()
        assert name == f"{rank}.png" and float(score) == pytest.approx(scores[rank], abs=1e-4)
        drawn = cv2.imread(str(out / f"{rank}.png"), cv2.IMREAD_GRAYSCALE) > 0
        ours = masks_to_results(scores[rank:][:1], windows[rank:][:1], logits[rank:][:1], **sizes).segmentations
        mask = coco_mask.decode(ours[0]).astype(bool) if ours else np.zeros_like(drawn)
        assert (mask != drawn).mean() < 1e-3


@pytest.fixture
def flatbuffers():
    return pytest.importorskip("flatbuffers", reason="jax.export needs flatbuffers (requirements-export.txt)")


def read(path):
    arrays = dict(np.load(path))
    about = json.loads(str(arrays.pop("description")))
    return jax.export.deserialize(bytearray(arrays.pop("function"))), about, arrays


def test_any_number_of_images(flatbuffers, network, tmp_path):
    _, model, variables = network
    write_jax(tmp_path / "net.npz", model, variables, ExportSpec(64, 96, None, K, 96, 0.4))
    function, about, weights = read(tmp_path / "net.npz")
    assert function.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    assert len(function.in_avals) == len(weights) + 2 == len(jax.tree.leaves(variables)) + 2  # no weight is a constant
    assert (about["batch"], about["padded_size"], about["strides"], about["long_edge"]) == (None, [64, 96], [8, 12], 96)
    for count in (1, 3):
        image, size = images(count), SIZES[:count]
        assert_same(function.call(weights, image, size), expected(model, variables, image, size))


def with_objectness_attention(model):
    """Returns the network with a finer level and objectness attention, scoring at most 20 windows."""
    attentive = model.clone(strides=(4, *model.strides), objectness_attention_width=4, attended_windows=20)
    return attentive, draw(attentive)


def test_a_network_with_objectness_attention(flatbuffers, network, tmp_path):
    model, variables = with_objectness_attention(network[1])
    write_jax(tmp_path / "net.npz", model, variables, ExportSpec(64, 96, None, K, 96, 0.4))
    function, about, weights = read(tmp_path / "net.npz")
    assert about["strides"] == [4, 8, 12]
    image, size = images(2), SIZES[:2]
    assert_same(function.call(weights, image, size), expected(model, variables, image, size))


def test_the_command_and_the_example(flatbuffers, own_weights, network, photo, tmp_path, capsys):
    out = tmp_path / "net.npz"
    arguments = ["--weights", str(own_weights), "--format", "jax", "--size", "64x96", "--batch", "2"]
    assert export.main([*arguments, "--proposals", str(K), "--out", str(out)]) == 0
    assert f"images of 64x96, batch 2, {K} proposals of each" in capsys.readouterr().out
    function, _, weights = read(out)
    assert function.in_avals[-2].shape == (2, 64, 96, 3)
    with pytest.raises(ValueError):
        function.call(weights, images(3), SIZES)
    check_example("run_exported.py", out, photo, tmp_path / "out", network)


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        (["--size", "64by96"], "HEIGHTxWIDTH"),
        (["--size", "64x98"], "multiples of 4"),
        (["--size", "64x80"], "--config.evaluation.long_edges=80"),
        (["--batch", "some"], "some: expected an integer from 1 to 256"),
        (["--batch", "0"], "0: expected an integer from 1 to 256; the nearest is 1"),
        (["--proposals", "0"], "0: expected an integer from 1 to 100000"),
        (["--proposals", "1000000000"], "the nearest is 100000"),
        (["--size", "40000x40000"], "at most 8192 pixels a side"),
        (["--out", "net.onnx"], "must end in .npz"),
        (["--weights", "nowhere.safetensors"], "no file or folder nowhere.safetensors"),
    ],
)
def test_mistakes_get_one_line(own_weights, tmp_path, capsys, changed, answer):
    arguments = ["--weights", str(own_weights), "--format", "jax", "--out", str(tmp_path / "net.npz"), *changed]
    try:
        code = run_command(lambda: export.main(arguments))
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert answer in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_without_flatbuffers(network, tmp_path, monkeypatch):
    _, model, variables = network
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install flatbuffers"):
        write_jax(tmp_path / "net.npz", model, variables, ExportSpec(64, 96, 1, K, 96, 0.4))
    assert not list(tmp_path.iterdir())


def test_simplified_functions_do_the_same():
    def function(x, size):
        pooled = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2), (1, 2, 1), ((0, 0), (1, 2), (0, 1)))
        rows = jax.nn.relu(pooled) + lax.stop_gradient(pooled) * (size // 3 % 2)
        again = jax.nn.relu(pooled) * ((size // 3) - size % 5)
        chosen = lax.platform_dependent(rows, cpu=lambda y: y + 1e3, default=lambda y: y * 2)
        return chosen, again

    x = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    size = np.int32(17)
    plain = simplify(function, jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct((), jnp.int32))
    names = [equation.primitive.name for equation in plain.jaxpr.eqns]
    assert not {"jit", "custom_jvp_call", "stop_gradient", "rem", "reduce_window_max", "cond"} & set(names)
    assert names.count("div") == 4  # by 3, 2 and 5, and once more for a remainder of 3; not again for the second row

    padded = np.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=-np.inf)
    pooled = np.array([[[p[r : r + 3, c : c + 2].max() for c in range(5)] for r in range(0, 8, 2)] for p in padded])
    chosen, again = jax.extend.core.jaxpr_as_fun(plain)(x, size)
    np.testing.assert_allclose(chosen, 2 * (np.maximum(pooled, 0) + pooled * (17 // 3 % 2)), rtol=1e-6)
    np.testing.assert_allclose(again, np.maximum(pooled, 0) * (17 // 3 - 17 % 5), rtol=1e-6)
