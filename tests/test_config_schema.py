"""Checks of configs: every setting has a range, and every error is one line with the nearest allowed value."""

import copy
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from fastmask_jax import config_schema
from fastmask_jax.config_schema import SECTIONS, check_config, implementation
from fastmask_jax.configuration import load_config
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.load import load
from fastmask_jax.models.build import build_model
from fastmask_jax.models.windows import MAP_FORMS
from fastmask_jax.setting_kinds import Flag, Integer, Name, NameOrInteger, Number, Several, Text
from fastmask_jax.weights.safetensors_file import write_safetensors
from fastmask_jax.weights.sources import config_of
from tests.tiny import ROOT

COCO = str(ROOT / "configs/coco.py")
LITE = str(ROOT / "configs/coco_lite.py")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.head=ATTENTIONAL", "is not one of ['attentional', 'standard']; did you mean 'attentional'?"),
        ("model.neck=x", "is not one of ['residual', 'average', 'max', 'feedforward']"),
        ("model.neck=maximum", "; did you mean 'max'?"),
        ("model.body.flavor=caffex", "is not one of ['caffe', 'torchvision']; did you mean 'caffe'?"),
        ("model.body.kind=vgg", "is not one of ['resnet', 'efficientnet_lite']"),
        ("model.dtype=float8", "; did you mean 'float32'?"),
        ("model.dtype=float16", "'bfloat16' has float32's range"),
        ("model.train_form=conv", "is not one of ['gather', 'patches']"),
        ("model.score_form=Conv", "; did you mean 'conv'?"),
        ("model.strides=(32, 16, 24)", "in ascending order, each value once: (16, 24, 32)"),
        ("model.dropout=1.0", "expected a number from 0 and below 1"),
        ("model.channels=0", "expected an integer from 1 to 16384; the nearest is 1"),
        (
            "model.body.depths=(3, 10000, 6)",
            "model.body.depths[1]=10000: expected an integer from 1 to 200;",
        ),
        ("data.buckets=((583, 872),)", "data.buckets[0][0]=583: expected a multiple of 4 from 4 to 8192; the nearest"),
        ("data.long_edges=(869, 800)", "expected the smallest first: (800, 869)"),
        ("data.long_edges=(800,)", "expected a tuple of 2 values"),
        ("data.workers=1000000", "the nearest is 256"),
        ("labels.fit_low=0.9", "must be below labels.fit_high=0.68"),
        ("losses.mask=-1.0", "expected a number from 0 to 1e+06; the nearest is 0"),
        ("losses.mask=1e999", "the nearest is 1e+06"),
        ("losses.score_target=IoU", "; did you mean 'iou'?"),
        ("optimizer.name=adamw", "; did you mean 'adam'?"),
        ("optimizer.schedule=cos", "; did you mean 'cosine'?"),
        ("optimizer.batch_scaling=lineal", "; did you mean 'linear'?"),
        ("optimizer.momentum=1.0", "expected a number from 0 and below 1"),
        ("train.batch_size=0", "expected an integer from 1 to 65536; the nearest is 1"),
        ("train.batch_size=10000000000", "the nearest is 65536"),
        ("train.keep_checkpoints=0", "the nearest is 1"),
        ("evaluation.exif=rotate", "is not one of ['ignore', 'apply']"),
        ("evaluation.mask_threshold=0.0", "expected a number above 0 and below 1"),
        ("evaluation.batch_size=100000", "the nearest is 256"),
        ("evaluation.proposals=1000000000", "the nearest is 100000"),
        ("evaluation.long_edges=()", "expected a tuple of at least 1 value"),
        ("seed=-1", "the nearest is 0"),
        ("seed=99999999999", "the nearest is 4294967295"),
    ],
)
def test_a_value_that_is_not_allowed_is_one_line_with_the_nearest_right_one(setting, says):
    with pytest.raises(InvalidInput) as caught:
        load_config(COCO, [f"--config.{setting}"])
    key = setting.partition("=")[0]
    assert says in str(caught.value) and key in str(caught.value) and "\n" not in str(caught.value)


def test_score_target_iou_needs_a_mask_for_every_positive():
    overrides = ["--config.losses.score_target=iou", "--config.labels.mask_positives=31"]
    with pytest.raises(InvalidInput, match=r"=31 must be at least labels\.score_positives=32"):
        load_config(COCO, overrides)


def test_names_are_those_that_the_network_knows():
    assert all(callable(implementation(neck)) for neck in config_schema.NECKS.values())
    for body in config_schema.BODIES.values():
        fields = set(implementation(body.module).__dataclass_fields__) - {"parent", "name", "dtype"}
        assert fields == set(body.settings)
    assert set(config_schema.SCORE_FORMS) == set(MAP_FORMS)


def test_building_a_network_checks_its_settings():
    model = load_config(COCO).model.to_dict()
    for key, value in (("neck", "x"), ("head", "ATTENTIONAL")):
        with pytest.raises(InvalidInput, match=rf"^model\.{key}='{value}' is not one of \["):
            build_model(model | {key: value})
    with pytest.raises(InvalidInput, match=r"model\.width: no such setting; did you mean model\.mask_width\?"):
        build_model(model | {"width": 3})
    with pytest.raises(InvalidInput, match=r"the config has no model\.neck:"):
        build_model({key: value for key, value in model.items() if key != "neck"})


WHOLE = {path: load_config(path).to_dict() for path in (COCO, LITE)}


def wrong(kind):
    """Returns a strategy for invalid values of a kind of setting: other types, and out of range."""
    others = st.none() | st.binary(max_size=3) | st.just(float("nan")) | st.just({}) | st.just(object())
    match kind:
        case Integer():
            below, above = st.integers(max_value=kind.least - 1), st.integers(min_value=kind.most + 1)
            return others | below | above | st.booleans() | st.text() | st.floats()
        case Number():
            low = st.floats(max_value=kind.least, exclude_max="(" not in kind.open)
            high = st.floats(min_value=kind.most, exclude_min=")" not in kind.open)
            return others | low | high | st.booleans() | st.text()
        case Flag():
            return others | st.integers() | st.text()
        case Text():
            return others | st.integers()
        case Name():
            return others | st.integers() | st.text().filter(lambda text: text not in kind.names)
        case NameOrInteger():
            return others | st.integers(max_value=kind.integer.least - 1) | st.booleans() | st.just("of") | st.just("7")
        case Several():
            return others | st.integers() | st.text() | wrong(kind.item).map(lambda one: (one,) * (kind.length or 1))


EVERY = [
    *((f"{section}.{key}", kind) for section, kinds in SECTIONS.items() for key, kind in kinds.items()),
    *((f"model.body.{key}", kind) for key, kind in config_schema.BODIES["resnet"].settings.items()),
]


@given(st.data())
def test_no_setting_takes_a_wrong_value(data):
    key, kind = data.draw(st.sampled_from(EVERY))
    value = data.draw(wrong(kind))
    config = copy.deepcopy(WHOLE[COCO])
    *sections, name = key.split(".")
    section = config
    for one in sections:
        section = section[one]
    section[name] = value
    with pytest.raises(InvalidInput) as caught:
        check_config(config, training=True)
    assert key in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


@given(st.sampled_from([COCO, LITE]), st.data())
def test_a_missing_or_misspelled_setting_is_named(path, data):
    config = copy.deepcopy(WHOLE[path])
    body = [f"model.body.{key}" for key in config["model"]["body"] if key != "kind"]
    key = data.draw(st.sampled_from([key for key, _ in EVERY if not key.startswith("model.body.")] + body))
    *sections, name = key.split(".")
    section = config
    for one in sections:
        section = section[one]
    value = section.pop(name)
    with pytest.raises(InvalidInput, match=f"the config has no {key}:"):
        check_config(config, training=True)
    section |= {name: value, name + "x": value}
    with pytest.raises(InvalidInput, match=rf"{key}x: no such setting; did you mean {key}\?"):
        check_config(config, training=True)


SOUND = (
    "from fastmask_jax.configs import shapes\ndef get_config(variant=''):\n    config = shapes.get_config(variant)\n"
)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.py", "def get_config(:\n", "a.py: SyntaxError: invalid syntax"),
        ("a.py", "\0\0", "a.py: SyntaxError"),
        ("a.py", b"\xff\xfe\x80", "a.py: SyntaxError"),
        ("a.py", "import no_such_module_anywhere\n", "a.py, line 1: ModuleNotFoundError: No module named"),
        ("a.py", "\nimport sys; sys.exit('usage: a.py FILE')", "a.py, line 2: SystemExit: usage: a.py FILE"),
        ("a.py", "x = 1\n", "a.py has no function get_config"),
        ("a.py", "get_config = 3\n", "a.py has no function get_config"),
        ("a.py", "def get_config():\n    return {}\n", "a.py: get_config takes the variant"),
        ("a.py", "def get_config(variant=''):\n    pass\n", "get_config returns None, not an ml_collections"),
        ("a.py", f"{SOUND}    config.x.y = 3\n    return config\n", "a.py, line 4: AttributeError"),
        ("a.py", f"{SOUND}    config.model.neck = 'x'\n    return config\n", "a.py: model.neck='x' is not one of"),
        ("a.py", f"{SOUND}    config.train.batchsize = 3\n    return config\n", "did you mean train.batch_size?"),
        ("a.py", f"{SOUND}    config.trian = config.train\n    return config\n", "trian: no such setting; did you"),
        ("a.py", f"{SOUND}    del config.optimizer\n    return config\n", "the config has no optimizer"),
        ("a.json", "{}", "a.json: expected a Python file"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "a.safetensors: expected a Python file"),
    ],
)  # fmt: skip
def test_a_broken_or_foreign_config_file_is_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput) as caught:
        load_config(str(path))
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_file_may_print_and_import(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{SOUND}    config.train.batch_size = 2\n    return config\n")
    assert load_config(str(path), ["--config.train.images=9"]).train.to_dict().items() >= {
        ("batch_size", 2),
        ("images", 9),
    }


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("evaluation", "mask_threshold", 7, "evaluation.mask_threshold=7: expected a number above 0 and below 1"),
        ("evaluation", "long_edges", ["870"], "evaluation.long_edges[0]='870': expected an integer from 4"),
        ("evaluation", "long_edges", [10**9], "evaluation.long_edges[0]=1000000000: expected an integer from 4"),
        ("evaluation", "buckets", [], "evaluation.buckets=(): expected a tuple of at least 1"),
        ("evaluation", "exif", None, "evaluation.exif=None is not one of"),
        ("evaluation", "proposals", {}, "evaluation.proposals={}: expected an integer"),
        ("model", "neck", "x", "model.neck='x' is not one of"),
        ("model", "channels", 10**30, "model.channels=1000000000000000000000000000000: expected an integer"),
        ("model", "unknown", 1, "model.unknown: no such setting"),
        ("model", "a\nb", 1, r"model.a\nb: no such setting"),
    ],
)
def test_the_config_in_a_weight_file_is_checked(tmp_path, section, key, value, says):
    path = tmp_path / "net.safetensors"
    config = json.loads(json.dumps(load_config(COCO).to_dict()))
    config[section][key] = value
    write_safetensors(path, {"params": {}}, config)
    for read in (config_of, load):
        with pytest.raises(InvalidInput) as caught:
            read(str(path))
        assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_passed_to_load_is_checked():
    config = ConfigDict(load_config("shapes").to_dict())
    config.model.neck = "x"
    with pytest.raises(InvalidInput, match=r"model\.neck='x' is not one of"):
        load("shapes", config=config)
    del config.evaluation
    config.model.neck = "max"
    with pytest.raises(InvalidInput, match="the config has no section evaluation"):
        load("shapes", config=config)


def test_checking_wants_no_jax():
    code = "import sys; sys.modules['jax'] = None; from fastmask_jax import config_schema"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
