"""Configs on the command line: every type of override, and one line for every error."""

import argparse
import errno
import itertools
import pickle
import re
import subprocess
import sys
import traceback
from pathlib import Path

import jax
import pytest

from fastmask_jax.configuration import REPORT, load_config, parse_command_line, run_command
from fastmask_jax.errors import ExistingFile, InvalidInput, MissingFile, WorkerDied
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.models.fastmask import chain_of
from tests.tiny import ROOT

COCO, SHAPES = str(ROOT / "configs/coco.py"), str(ROOT / "configs/shapes.py")
VARIANTS = (
    "zoom",
    "one_stream",
    "torchvision",
    "average_neck",
    "max_neck",
    "feedforward_neck",
    "standard_head",
    "bfloat16",
    "attentionmask",
    "attentionmask_8_192",
    "attentionmask_16_192",
)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.batch_size", "4", 4),
        ("optimizer.learning_rate", "0.5", 0.5),
        ("optimizer.learning_rate", "2", 2.0),
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("model.body.train_norms", "True", True),
        ("model.neck", "max", "max"),
        ("data.records", "a=b", "a=b"),
        ("model.strides", "(8, 16)", (8, 16)),
        ("model.strides", "[8, 16]", (8, 16)),
        ("data.buckets", "[[8, 16], (4, 4)]", ((8, 16), (4, 4))),
        ("optimizer.drop_images", "()", ()),
        ("seed", "7", 7),
    ],
)
def test_override(key, text, value):
    config = load_config(COCO, [f"--config.{key}={text}"])
    for part in key.split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.batch=4", "did you mean --config.train.batch_size?"),
        ("optimiser.learning_rate=4", "did you mean --config.optimizer.learning_rate?"),
        ("batch_size=4", "did you mean --config.train.batch_size?"),
        ("seed.x=4", "no such key"),
        ("train=4", "is a section: set one of its keys ['batch_size'"),
        ("train.batch_size=four", "train.batch_size=four: expected the type of 1"),
        ("train.batch_size=1.5", "expected the type of 1"),
        ("train.batch_size=True", "expected the type of 1"),
        ("train.batch_size=", "expected the type of 1"),
        ("model.body.train_norms=1", "expected the type of False"),
        ("optimizer.learning_rate=fast", "expected the type of 0.001"),
        ("model.strides=8", "expected the type of (16"),
        ("model.strides=(8, 1.5)", "expected the type of (16"),
        ("data.buckets=(8, 16)", "expected the type of ((584"),
        ("seed", "give a value, as in --config.seed=VALUE"),
    ],
)
def test_mistaken_override(override, says):
    with pytest.raises(ValueError) as caught:
        load_config(COCO, [f"--config.{override}"])
    assert says in str(caught.value) and override.partition("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train.py", "--config", "configs/coca.py"], "config configs/coca.py: no such file"),
        (["train.py", "--config", "configs/coco.py:zoo"], "no variant 'zoo'; it has ['attentionmask'"),
        (["train.py", "--config", "configs/coco.py", "--config.sed=1"], "--config.sed: no such key"),
        (["evaluate.py", "--config", "configs/coco.py", "--workdir", "w", "--config.seed"], "--config.seed=VALUE"),
    ],
)
def test_mistakes_on_the_command_line(arguments, says):
    """One line and exit code 2, before JAX is imported: here, importing it fails."""
    script = (
        f"import sys, runpy; sys.modules['jax'] = None; sys.argv = {arguments}; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not done.stdout


def test_missing_value_and_stray_word_are_named(capsys):
    for rest, says in ((["--config.seed", "1"], "--config.seed=VALUE"), (["sed"], "sed")):
        with pytest.raises(SystemExit) as caught:
            parse_command_line(argparse.ArgumentParser(), rest)
        assert caught.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (InvalidInput("a.json: no list"), ValueError),
        (MissingFile("a.json: no such file"), FileNotFoundError),
        (ExistingFile("a: is finished already"), FileExistsError),
        (WorkerDied("a worker process was killed"), RuntimeError),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), OSError),
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, also, capsys):
    def command():
        raise pickle.loads(pickle.dumps(error))  # as raised from a worker process

    assert isinstance(error, also)
    assert run_command(command) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: jax.numpy.zeros((2, 3)) @ jax.numpy.zeros((2, 3)),
        lambda: jax.numpy.zeros(3).reshape(2, 2),
        lambda: [].index(1),
        lambda: Path("/no/such/file").read_text(),
        lambda: {}["key"],
    ],
)
def test_a_fault_of_ours_keeps_its_traceback(mistake):
    """The traceback ends with the request to report it. Most of these errors are ValueError or OSError."""
    with pytest.raises(Exception) as caught:
        run_command(mistake)
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert lines[0].startswith("Traceback") and any("test_configuration.py" in line for line in lines)
    assert lines[-1] == REPORT


def test_a_level_of_two_streams_is_refused():
    config = load_config(COCO, ["--config.model.body.stream_strides=(2, 4)"])
    with pytest.raises(InvalidInput, match=r"level 32 of strides=.* is reached by two streams of \(16, 32\)"):
        jax.eval_shape(lambda: initial_variables(build_model(config.model.to_dict()), 0))


def parameters(spec: str) -> int:
    shapes = jax.eval_shape(lambda: initial_variables(build_model(load_config(spec).model.to_dict()), 0))
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))


def counted(strides_neck: str = "residual", head: str = "attentional", stem_bias: int = 64) -> int:
    """Parameters of the paper's network, layer by layer (docs/network.md §1)."""
    body = 7 * 7 * 3 * 64 + stem_bias + 2 * 64
    inputs = 64
    for depth, width in ((3, 64), (4, 128), (6, 256)):
        for block in range(depth):
            body += inputs * width + 9 * width * width + width * 4 * width + 2 * (width + width + 4 * width)
            if block == 0:
                body += inputs * 4 * width + 2 * 4 * width
            inputs = 4 * width
    neck = 9 * 1024 * 256 + 256 + 256 * 1024 + 1024 if strides_neck in ("residual", "feedforward") else 0
    lateral = 1024 * 128 + 128
    objectness = 12800 * 512 + 512 + 512 * 1024 + 1024 + 1024 + 1
    attention = 12800 * 100 + 100 if head == "attentional" else 0
    mask = 12800 * 512 + 2 * 512 + 512 * 1600 + 1600
    return body + neck + lateral + 2 * 128 + objectness + attention + mask


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("", counted()),
        ("torchvision", counted(stem_bias=0)),
        ("average_neck", counted("average")),
        ("max_neck", counted("max")),
        ("standard_head", counted(head="standard")),
        *((same, counted()) for same in ("zoom", "one_stream", "feedforward_neck", "bfloat16")),
        ("zoom,max_neck,standard_head", counted("max", "standard")),
    ],
)
def test_variants_of_the_paper(variant, count):
    assert parameters(f"{COCO}:{variant}") == count


def keys_of(config) -> set[str]:
    """ "section.key" of all sections."""
    return {f"{name}.{key}" for name, section in config.items() if name != "seed" for key in section}


def test_every_config_loads_with_every_variant():
    configs = sorted((ROOT / "configs").glob("[!_]*.py"))
    assert {path.name for path in configs} >= {"coco.py", "shapes.py", "overfit.py"}
    for path, variant in itertools.product(configs, ("", *VARIANTS)):
        if path.stem in ("coco_lite", "coco_few") and variant == "torchvision":  # their body is no ResNet
            continue
        config = load_config(f"{path}:{variant}")
        assert keys_of(config) == keys_of(load_config(COCO)), (path, variant)  # a misspelled key would be additional
        model = build_model(config.model.to_dict())
        reached = {s for base in model.body.strides for s in chain_of(base, max(model.strides))} | {model.fine_stride}
        assert set(model.body.strides) <= set(model.strides) <= reached, (path, variant)
        assert len(set(model.strides)) == len(model.strides), (path, variant)
        sections = [(config.evaluation.buckets, max(config.evaluation.long_edges))]
        if not config.data.random_crop:  # crops fit any bucket
            sections.append((config.data.buckets, config.data.long_edges[1]))
        for buckets, largest in sections:
            assert max(map(max, buckets)) >= largest // 4 * 4, (path, variant)
        assert re.search(r"^ *python \S+\.py ", path.read_text(), re.MULTILINE), f"{path} does not give its command"
