"""Loading a generator: the config, errors, imports, and the compilation cache."""

import subprocess
import sys
from types import ModuleType

import jax
import numpy as np
import pytest

import fastmask_jax
from fastmask_jax.configuration import load_config
from fastmask_jax.inference.load import keep_compiled
from tests import caffe_network
from tests.tiny import ROOT, compilations_kept, events

OVERRIDES = [text.removeprefix("--config.") for text in caffe_network.command_line()]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.caffemodel"
    layers = caffe_network.random_network(np.random.default_rng(3), caffe_network.STRIDES)
    path.write_bytes(caffe_network.net(layers))
    return path


def test_the_name_of_a_config_is_known_everywhere(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = fastmask_jax.load(weights, config="coco:bfloat16", overrides=OVERRIDES, compilation_cache=False)
    assert generator.config.model.dtype == "bfloat16"
    assert generator.config.evaluation.long_edges == (128,)
    assert generator.strides == caffe_network.STRIDES
    assert not generator.loaded.initial and not generator.loaded.unused


def test_the_default_is_the_bundled_network_for_photographs():
    generator = fastmask_jax.load(compilation_cache=False)
    assert generator.config.model.body.kind == "efficientnet_lite"
    assert not generator.loaded.initial and not generator.loaded.unused


def test_another_package_of_the_name_configs_is_in_nobodys_way(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("configs.")]:  # another test's
        monkeypatch.delitem(sys.modules, name)
    theirs = ModuleType("configs")
    monkeypatch.setitem(sys.modules, "configs", theirs)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config("coco_lite:zoom")
    assert config.model.body.kind == "efficientnet_lite" and config.model.strides[-1] == 192
    assert sys.modules["configs"] is theirs and "configs.coco" not in sys.modules


def test_a_config_may_be_a_path_or_a_config(weights):
    config = load_config(str(ROOT / "configs" / "coco.py"), OVERRIDES)
    generator = fastmask_jax.load(str(weights), config=config, overrides=["evaluation.proposals=7"])
    assert (generator.config.evaluation.proposals, config.evaluation.proposals) == (7, 1000)
    other = fastmask_jax.load(weights, config=ROOT / "configs" / "coco.py", overrides=OVERRIDES)
    assert other.config.to_dict() == config.to_dict()


def test_files_of_others_are_taken_for_the_published_network(weights):
    with pytest.raises(ValueError, match=r"net\.caffemodel") as error:  # it does not fit: this network is narrow
        fastmask_jax.load(weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"config": "cocoa"}, "config cocoa: no such file, and none of the bundled configs coco, .*shapes"),
        ({"config": "coco:loud"}, "no variant 'loud'"),
        ({"config": "coco", "overrides": ["evaluation.longedge=3"]}, "did you mean --config.evaluation.long_edges"),
        ({"config": "coco", "overrides": "evaluation.long_edge=3"}, r"expected a list, \['evaluation.long"),
        ({"config": "coco", "compilation_cache": __file__}, "compilation_cache=.*: not a writable folder"),
        ({"weights": "nowhere.caffemodel"}, "nowhere.caffemodel: no file or folder"),
    ],
)
def test_mistakes_are_named_in_a_line(weights, changed, line):
    with pytest.raises((ValueError, FileNotFoundError), match=line) as error:
        fastmask_jax.load(**{"weights": weights, "compilation_cache": False, **changed})
    assert "\n" not in str(error.value)


def test_the_package_is_light_until_it_is_used(tmp_path):
    code = (
        "import sys, fastmask_jax, fastmask_jax.geometry; assert 'jax' not in sys.modules; "
        "assert {'load', 'ProposalGenerator', 'Proposals', 'ProposeOptions'} <= set(dir(fastmask_jax)); "
        "fastmask_jax.ProposeOptions(count=3); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'lead'"):
        _ = fastmask_jax.lead


def test_compiled_programs_are_found_again(weights, tmp_path):
    image = np.full((96, 128, 3), 90, np.uint8)
    generator = fastmask_jax.load(weights, config="coco", overrides=OVERRIDES, compilation_cache=False)
    with compilations_kept(tmp_path), events("/jax/compilation_cache/cache_hits") as hits:
        before = generator.propose(image)
        first, kept = len(hits), list(tmp_path.glob("jit_propose-*-cache"))
        jax.clear_caches()
        again = fastmask_jax.load(weights, config="coco", overrides=OVERRIDES, compilation_cache=tmp_path)
        after = again.propose(image)
    assert first == 0 and len(kept) == 1 and len(hits) > 0
    np.testing.assert_array_equal(before.scores, after.scores)
    assert before.rles == after.rles


def test_where_compiled_programs_are_kept(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "fastmask_jax")
        keep_compiled(tmp_path / "here")
        keep_compiled()  # in JAX's folder
        assert (tmp_path / "here").is_dir()
        monkeypatch.setenv("HOME", __file__)  # no folder can be made there
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "here")
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir is None
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user, who has neither name nor home
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
