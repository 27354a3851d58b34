"""Networks of this project: checkpoints in networks that differ in part, exported files, and training from weights."""

import json
import os
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from fastmask_jax.apps.command_line import export
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.training import loop
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import TrainState
from fastmask_jax.weights.checkpoints import Checkpoints, save_config
from fastmask_jax.weights.safetensors_file import CONFIG, read_safetensors, write_safetensors
from fastmask_jax.weights.sources import config_of, load_trained, load_weights, parse_spec
from tests import tiny
from tests.plain_network import random_variables


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return tiny.dataset(tmp_path_factory.mktemp("weights"))


def own_config(data, **changed):
    """Returns a config with three levels, so that there is a neck, and with a batch that the devices can share."""
    return tiny.config(data, **{"model__strides": (8, 12, 16), "train__batch_size": jax.device_count(), **changed})


def shapes(config):
    return jax.eval_shape(lambda: initial_variables(build_model(config.model.to_dict()), 0))


def drawn(config):
    """Returns random variables."""
    model = build_model(config.model.to_dict())
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    return random_variables(model, jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64), windows, windows)


def state_of(config, variables, step=0):
    optimizer, _ = build_optimizer(config.optimizer.to_dict(), config.train.batch_size, config.train.images)
    return TrainState(step=jnp.array(step), opt_state=optimizer.init(variables["params"]), **variables)


@pytest.fixture(scope="session")
def workdir(data, tmp_path_factory):
    """A run with one checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("run")
    config = own_config(data)
    state = state_of(config, drawn(config), step=5)
    checkpoints = Checkpoints(folder, config.to_dict())
    save_config(folder, config)
    checkpoints.save(state)
    checkpoints.close()
    return folder


def flat(variables):
    return traverse_util.flatten_dict(variables, sep=".")


def assert_same(found, wanted):
    found, wanted = flat(found), flat(wanted)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def test_a_checkpoint_whole(data, workdir, caplog):
    config = own_config(data)
    loaded = load_weights(str(workdir), config.model.to_dict(), shapes(config))
    assert_same(loaded.variables, drawn(config))
    assert loaded.report.source == f"{workdir} (step 5)"
    assert loaded.report.initial == () and loaded.report.unused == () and loaded.report.notes == ()
    assert not caplog.records


def test_a_checkpoint_into_a_network_with_other_levels(data, workdir):
    config = own_config(data, model__strides=(8, 12, 16, 24))
    assert_same(load_trained(str(workdir), config.model.to_dict()).variables, drawn(own_config(data)))


def test_a_checkpoint_into_a_network_with_another_neck_and_other_heads(data, workdir):
    config = own_config(data, model__neck="average", model__head="standard", model__objectness_widths=(8, 9))
    loaded = load_weights(str(workdir), config.model.to_dict(), shapes(config))
    assert {name.rpartition(".")[0] for name in loaded.report.initial} == {
        "params.objectness.fc2", "params.objectness.score"
    }  # fmt: skip
    unused = {name.split(".", 1)[1].rpartition(".")[0] for name in loaded.report.unused}
    assert unused == {"neck.conv1", "neck.conv2", "mask.attention", "objectness.fc2", "objectness.score"}
    assert loaded.report.notes == (
        "objectness.fc2 is not loaded: params.objectness.fc2.bias is (8,) in the file and (9,) in the network",
        "objectness.score is not loaded: params.objectness.score.kernel is (8, 1) in the file and "
        "(9, 1) in the network",
    )
    np.testing.assert_array_equal(
        loaded.variables["params"]["mask"]["fc1"]["kernel"], drawn(own_config(data))["params"]["mask"]["fc1"]["kernel"]
    )


def test_only_the_body(data, workdir):
    config = own_config(data)
    loaded = load_weights(f"{workdir}:body", config.model.to_dict(), shapes(config))
    assert {name.split(".")[1] for name in loaded.report.loaded} == {"body"}
    assert {name.split(".")[1] for name in loaded.report.unused} == {
        name.split(".")[1] for name in loaded.report.initial
    }
    with pytest.raises(ValueError, match="does not hold the whole network"):
        load_trained(f"{workdir}:body", config.model.to_dict())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model__body__width": 8}, r"body.stage2_block1.norm1.mean is \(4,\) there and \(8,\) in the network"),
        ({"model__body__depths": (1, 2, 1)}, r"stage3_block2.norm1.mean is absent there and \(8,\)"),
        ({"model__body__flavor": "torchvision"}, "model.body.flavor is 'caffe' there, 'torchvision' here"),
    ],
)
def test_another_body_is_refused(data, workdir, changed, said):
    config = own_config(data, **changed)
    with pytest.raises(ValueError, match=said) as error:
        load_weights(str(workdir), config.model.to_dict(), shapes(config))
    assert str(workdir) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_checkpoints_is_refused(data, tmp_path):
    config = own_config(data)
    with pytest.raises(FileNotFoundError, match="no checkpoints in it"):
        load_weights(str(tmp_path), config.model.to_dict(), shapes(config))


def _cut(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: max((run / "checkpoints/5/state").rglob("*"), key=lambda p: p.is_file() * p.stat().st_size), None),
        (lambda run: run / "checkpoints/5/state/_METADATA", r"checkpoints/5: not a whole checkpoint \("),
        (lambda run: run / "checkpoints/5/config/metadata", r"checkpoints/5: not a whole checkpoint \("),
    ],
    ids=["arrays", "metadata", "config"],
)
def test_a_damaged_run_is_one_line(data, workdir, tmp_path, damage, said):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    _cut(damage(copy))
    config = own_config(data)
    with pytest.raises(ValueError, match=said or "not a whole checkpoint") as error:
        load_weights(str(copy), config.model.to_dict(), shapes(config))
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["{", "[1]", "{}", '{"model": 5}', '{"model": {"body": "x"}}', '{"model":' + "[" * 100_000]
)
def test_a_file_with_another_config_is_one_line(data, tmp_path, text):
    path = tmp_path / "net.safetensors"
    save_file({"params.body.stem.kernel": np.ones(3, np.float32)}, path, {CONFIG: text})
    config = own_config(data)
    for read in (config_of, partial(load_weights, model=config.model.to_dict(), variables=shapes(config))):
        with pytest.raises(
            ValueError, match=r"net.safetensors: .*the config (is not JSON|has no section model)"
        ) as error:
            read(str(path))
        assert "\n" not in str(error.value)


def test_a_config_that_makes_no_network_is_one_line(data, tmp_path):
    path = tmp_path / "net.safetensors"
    config = own_config(data).to_dict()
    save_file(
        {"params.body.stem.kernel": np.ones(3, np.float32)}, path, {CONFIG: json.dumps({"model": config["model"]})}
    )
    with pytest.raises(ValueError, match="pass --config"):
        config_of(str(path))
    with pytest.raises(ValueError, match=r"the config has no model\.dtype"):
        load_trained(str(path), {key: value for key, value in config["model"].items() if key != "dtype"})


def test_a_folder_named_like_a_source_is_that_folder(data, workdir, tmp_path, monkeypatch):
    shutil.copytree(workdir, tmp_path / "shapes")
    monkeypatch.chdir(tmp_path)
    assert export.main(["--weights", "./shapes", "--format", "safetensors", "--out", "net.safetensors"]) == 0
    assert_same(load_trained("net.safetensors", own_config(data).model.to_dict()).variables, drawn(own_config(data)))


def test_a_home_and_a_pipe(workdir, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(workdir.parent))
    assert parse_spec(f"~/{workdir.name}:body").path == workdir
    os.mkfifo(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="is a pipe or device"):
        load_weights(str(tmp_path / "net.safetensors"), {}, {})  # does not wait for a writer


def test_export_and_back_bit_by_bit(data, workdir, tmp_path, capsys):
    path = tmp_path / "exported" / "net.safetensors"
    assert export.main(["--weights", str(workdir), "--format", "safetensors", "--out", str(path)]) == 0
    written = capsys.readouterr().out
    config = own_config(data)
    assert f"{len(flat(shapes(config)))} arrays" in written
    assert_same(load_trained(str(path), config.model.to_dict()).variables, drawn(config))
    assert set(read_safetensors(path).arrays) == set(flat(shapes(config)))

    found = config_of(str(path))
    assert found.to_dict() == config.to_dict() == config_of(str(workdir)).to_dict()
    assert config_of(str(path), ["--config.evaluation.proposals=7"]).evaluation.proposals == 7
    again = tmp_path / "again.safetensors"
    assert export.main(["--weights", str(path), "--format", "safetensors", "--out", str(again)]) == 0
    assert again.read_bytes() == path.read_bytes()


@pytest.fixture
def no_steps(data, monkeypatch):
    """Makes runs take no steps and start from ones, without compiling."""
    config = own_config(data, train__images=0)
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes(config))
    monkeypatch.setattr(loop, "create_state", lambda *_: state_of(config, ones))
    return config


def test_training_begins_with_the_weights(no_steps, tmp_path):
    """Parameters and frozen statistics come from the file, and no statistics are measured."""
    wanted = drawn(no_steps)
    write_safetensors(tmp_path / "net.safetensors", wanted, no_steps.to_dict())
    weights = str(tmp_path / "net.safetensors")
    assert_same(loop.run(no_steps, tmp_path / "run", weights).state.variables, wanted)


def test_a_run_that_goes_on_keeps_its_own_weights(no_steps, workdir, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    assert_same(loop.run(no_steps, copy, "unasked.safetensors").state.variables, drawn(no_steps))
    assert "not from --weights" in capsys.readouterr().out
