"""Bodies with PyTorch's names: tables, and hand-written .pth files, from which nothing is executed."""

import json
import pickle
import struct
import zipfile
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.weights.pickled import read_pth
from fastmask_jax.weights.safetensors_file import read_safetensors
from fastmask_jax.weights.sources import load_weights
from tests import caffe_network
from tests.caffe_network import DEPTHS, WIDTH, kernel, small
from tests.tiny import ROOT


@cache
def network(variant=":torchvision"):
    config = load_config(f"{ROOT}/configs/coco.py{variant}", caffe_network.command_line())
    model = config.model.to_dict()
    return model, jax.eval_shape(lambda: initial_variables(build_model(model), 0))


def resnet_state(rng):
    """Returns a bottleneck ResNet with the names of torchvision and timm, including the classifier and layer4."""
    state = {}

    def norm(name, count):
        state[f"{name}.weight"] = rng.uniform(0.7, 1.4, count).astype(np.float32)
        state[f"{name}.bias"], state[f"{name}.running_mean"] = small(rng, count), small(rng, count)
        state[f"{name}.running_var"] = rng.uniform(0.7, 1.4, count).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.array(7)

    state["conv1.weight"] = kernel(rng, WIDTH, 3, 7, 7)
    norm("bn1", WIDTH)
    channels = WIDTH
    for layer, depth in enumerate((*DEPTHS, 1), 1):
        width = WIDTH * 2 ** (layer - 1)
        for n in range(depth):
            block = f"layer{layer}.{n}"
            shapes = (width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)
            for k, shape in enumerate(shapes, 1):
                state[f"{block}.conv{k}.weight"] = kernel(rng, *shape)
                norm(f"{block}.bn{k}", shape[0])
            if n == 0:
                state[f"{block}.downsample.0.weight"] = kernel(rng, 4 * width, channels, 1, 1)
                norm(f"{block}.downsample.1", 4 * width)
            channels = 4 * width
    state["fc.weight"], state["fc.bias"] = kernel(rng, 10, channels), small(rng, 10)
    return state


# Builds a .pth file from opcodes of the pickle machine, without PyTorch.


def plain(value):
    """Returns opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def called(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def tensor(key, array, legacy=False, strides=None, offset=0, count=None):
    storage = {"f": "FloatStorage", "i": "LongStorage"}[array.dtype.kind]
    parts = [plain("storage"), named("torch", storage), plain(key), plain("cpu"), plain(count or array.size)]
    parts += [plain(None)] * legacy
    steps = tuple(step // array.itemsize for step in array.strides) if strides is None else strides
    hooks = called(named("collections", "OrderedDict"))
    storage = b"(" + b"".join(parts) + b"tQ"
    arguments = storage, plain(offset), plain(array.shape), plain(steps), plain(False), hooks
    return called(named("torch._utils", "_rebuild_tensor_v2"), *arguments)


def mapping(items):
    return b"}(" + b"".join(plain(name) + value for name, value in items.items()) + b"u"


def pth(path, state, wrap=lambda tree: tree, legacy=False):
    arrays = {str(n): np.ascontiguousarray(array) for n, array in enumerate(state.values())}
    tree = mapping({name: tensor(key, arrays[key], legacy) for name, key in zip(state, arrays, strict=True)})
    tree = b"\x80\x02" + wrap(tree) + b"."
    if legacy:
        head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
        data = b"".join(pickle.dumps(value, 2) for value in head) + tree + pickle.dumps(list(arrays), 2)
        data += b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())
        path.write_bytes(data)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tree)
        archive.writestr("archive/byteorder", "little")
        for key, array in arrays.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def check(loaded, state):
    """Checks the arrays, entry by entry if the layouts differ."""
    body, frozen = loaded.variables["params"]["body"], loaded.variables["frozen_stats"]["body"]
    np.testing.assert_array_equal(body["stem"]["kernel"], state["conv1.weight"].transpose(2, 3, 1, 0))
    assert body["stage3_block1"]["conv2"]["kernel"][0, 2, 3, 5] == state["layer2.0.conv2.weight"][5, 3, 0, 2]
    assert body["stage4_block2"]["conv1"]["kernel"][9, 5] == state["layer3.1.conv1.weight"][5, 9, 0, 0]
    assert body["stage2_block1"]["project"]["kernel"][3, 7] == state["layer1.0.downsample.0.weight"][7, 3, 0, 0]
    for ours, theirs in (
        ("stage2_block2.norm3", "layer1.1.bn3"),
        ("stage4_block1.project_norm", "layer3.0.downsample.1"),
    ):
        block, norm = ours.split(".")
        np.testing.assert_array_equal(body[block][norm]["scale"], state[f"{theirs}.weight"])
        np.testing.assert_array_equal(body[block][norm]["bias"], state[f"{theirs}.bias"])
        np.testing.assert_array_equal(frozen[block][norm]["mean"], state[f"{theirs}.running_mean"])
        np.testing.assert_array_equal(frozen[block][norm]["var"], state[f"{theirs}.running_var"])
    assert loaded.report.holds("body")
    assert {name.split(".")[1] for name in loaded.report.loaded} == {"body"}
    unused = {name.rpartition(".")[0] for name in loaded.report.unused}
    assert all("layer4" in name or "fc" in name for name in unused) and len(unused) == 9


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.body."])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "nested"])
def test_names(tmp_path, prefix, kind):
    state = {prefix + name: array for name, array in resnet_state(np.random.default_rng(0)).items()}
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        nested = (
            (lambda tree: mapping({"epoch": plain(3), "state_dict": tree})) if kind == "nested" else (lambda tree: tree)
        )
        pth(path, state, nested, legacy=kind == "legacy")
    loaded = load_weights(str(path), *network())
    check(loaded, {name.removeprefix(prefix): array for name, array in state.items()})
    assert loaded.report.source == str(path)


def test_strides_and_shared_storages(tmp_path):
    path = tmp_path / "net.pth"
    values = np.arange(12, dtype=np.float32)
    part = values[:6].reshape(3, 2)  # shape alone matters here
    tree = {"turned": tensor("0", part, strides=(1, 3), count=12), "later": tensor("0", part, offset=6, count=12)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + mapping(tree) + b".")
        archive.writestr("a/data/0", values.tobytes())
    found = read_pth(path)
    np.testing.assert_array_equal(found["turned"], values[:6].reshape(2, 3).T)
    np.testing.assert_array_equal(found["later"], values[6:].reshape(3, 2))


def zipped(path, tree, data=b"1234"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + tree + b".")
        archive.writestr("a/data/0", data)


NARROW = {  # dtype of .safetensors → PyTorch's name, bytes of 1, −2 and the largest number, and that
    "BF16": ("bfloat16", "803f 00c0 7f7f", 2.0**127 * (2 - 2**-7)),
    "F8_E4M3": ("float8_e4m3fn", "38 c0 7e", 448),
    "F8_E5M2": ("float8_e5m2", "3c c0 7b", 57_344),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", "40 c8 7f", 240),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", "40 c4 7f", 57_344),
}


def raw_safetensors(path, dtype, shape, data):
    head = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}})
    path.write_bytes(struct.pack("<Q", len(head)) + head.encode() + data)
    return path


@pytest.mark.parametrize("dtype", NARROW)
def test_types_that_numpy_lacks(tmp_path, dtype):
    name, text, most = NARROW[dtype]
    data = bytes.fromhex(text)
    found = [read_safetensors(raw_safetensors(tmp_path / "net.safetensors", dtype, [3, 1], data)).arrays["w"]]
    if dtype != "BF16":  # which has a storage of its own
        storage = b"(" + plain("storage") + named("torch.storage", "UntypedStorage") + plain("0") + plain("cpu")
        storage += plain(len(data)) + b"tQ"
        rest = plain(0), plain((3, 1)), plain((1, 1)), plain(False), called(named("collections", "OrderedDict"))
        tree = called(named("torch._utils", "_rebuild_tensor_v3"), storage, *rest, named("torch", name))
        zipped(tmp_path / "net.pth", mapping({"w": tree}), data)
        found.append(read_pth(tmp_path / "net.pth")["w"])
    for array in found:
        assert array.astype(np.float32).tolist() == [[1], [-2], [most]]


@pytest.mark.parametrize(("dtype", "data"), [("F4", b"1234"), ("F6_E2M3", b"123456"), ("C64", b"12345678" * 8)])
def test_types_that_are_not_read_are_named(tmp_path, dtype, data):
    raw_safetensors(tmp_path / "net.safetensors", dtype, [8], data)
    with pytest.raises(ValueError, match=rf"net.safetensors: w is of type {dtype}, which is not read: convert it to"):
        read_safetensors(tmp_path / "net.safetensors")


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (called(named("os", "system"), plain("touch SENTINEL")), "it would execute os.system, and only tensors"),
        (called(named("builtins", "eval"), plain("open('SENTINEL', 'w')")), "would execute builtins.eval"),
        (mapping({"w": called(named("numpy", "load"), plain("x"))}), "would execute numpy.load"),
        (b"(S'touch SENTINEL'\nios\nsystem\n", "would execute os.system"),  # the opcode INST
        (plain("os") + plain("system") + b"\x93" + b"(" + plain("touch SENTINEL") + b"tR", "would execute os.system"),
        (mapping({"w": tensor("0", np.ones((4, 4), np.float32), count=1)}), "beyond its storage of 1"),
        (mapping({"w": tensor("0", ONE, offset=1)}), "beyond its storage"),
        (mapping({"w": tensor("0", ONE, offset=-1)}), "malformed"),
        (mapping({"w": tensor("0", np.ones(2, np.float32))}), "has 4 bytes, not 8"),
        (mapping({"w": tensor("0", np.ones((1 << 20, 1), np.float32), strides=(0, 0), count=1)}), "beyond its storage"),
        (mapping({"w": tensor("../../etc", ONE)}), "There is no item"),
        (mapping({"w": called(named("torch._utils", "_rebuild_tensor_v3"), plain(1))}), "malformed"),
        (mapping({"w": called(named("torch", "float8_e5m2"), plain(1))}), "not callable"),
        (plain([1, 2]), "no named tensors"),
        (mapping({"w": plain(1)}), "no named tensors"),
        (b"}q\x00" + plain("model") + b"h\x00s", "no named tensors"),  # a dict that contains itself
        (b"Nr" + struct.pack("<I", 1 << 28), "larger than a state dict's"),  # asks for room for 2^29 values
        (b"\x8f0" * (1 << 19) + b"N", "larger than a state dict's"),
        (
            b"](" + b"(NNt" * 2000 + b"eq\x000" + b"(" + b"ccollections\nOrderedDict\n(h\x00tR" * 600 + b"l",
            "than the file",
        ),
        (b"X" + struct.pack("<I", 1 << 31), "only 1 remain"),
        (b"\x00", "not a readable PyTorch state dict"),
    ],
)
def test_nothing_but_tensors_is_read(tmp_path, monkeypatch, tree, said):
    monkeypatch.chdir(tmp_path)
    zipped(tmp_path / "evil.pth", tree)
    with pytest.raises(ValueError, match=said) as error:
        read_pth(tmp_path / "evil.pth")
    assert str(error.value).startswith(str(tmp_path / "evil.pth")) and "\n" not in str(error.value)
    legacy = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    (tmp_path / "evil.pth").write_bytes(b"".join(legacy) + b"\x80\x02" + tree + b".")
    with pytest.raises(ValueError, match=r"evil.pth"):
        read_pth(tmp_path / "evil.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_off_files_are_refused(tmp_path, legacy):
    path = tmp_path / "net.pth"
    pth(path, {"w": np.arange(300, dtype=np.float32)}, legacy=legacy)
    data = path.read_bytes()
    for length in (0, 1, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"net.pth: not a readable PyTorch state dict"):
            read_pth(path)


@pytest.mark.parametrize(
    ("change", "variant", "said"),
    [
        ({"layer2.0.bn2.running_var": None}, ":torchvision", r"layer2.0.bn2.running_var is absent, .* \(8,\)"),
        ({"layer2.0.bn2.bias": np.ones(9, np.float32)}, ":torchvision", r"layer2.0.bn2.bias is \(9,\) in the file"),
        ({}, "", "of flavor caffe: set model.body.flavor=torchvision"),
        (
            {"layer3.2.conv1.weight": np.ones((16, 64, 1, 1), np.float32)},
            ":torchvision",
            r"layer3.2.conv1.weight is \(16, 64, 1, 1\) in the file and absent .*model.body.depths, \(2, 1, 2\) here",
        ),
        ({"layer1.0.conv1.weight": np.full((4, 4, 1, 1), 1e300)}, ":torchvision", "not finite in float32"),
        (
            {"layer1.0.conv1.weight": None, "x._conv_stem.weight": ONE},
            ":torchvision",
            "holds a body of kind efficientnet_lite, and the config's is of kind resnet: take configs/coco_lite.py",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, variant, said):
    state = {**resnet_state(np.random.default_rng(0)), **change}
    path = tmp_path / "net.safetensors"
    save_file({name: array for name, array in state.items() if array is not None}, path)
    with pytest.raises(ValueError, match=said) as error:
        load_weights(str(path), *network(variant))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"encoder.weight": np.ones(3, np.float32)}, path)
    with pytest.raises(ValueError, match=r"none of its 1 arrays is known .*encoder.weight"):
        load_weights(str(path), *network())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"not a complete .safetensors file"):
        load_weights(str(path), *network())


def test_the_hub_without_a_network(monkeypatch, tmp_path):
    """Without a connection, one line gives the remedy; with one, the downloaded file is read like any other."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(**where):
        raise LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors"):
        load_weights("hf:timm/resnet50.tv_in1k", *network())

    state = resnet_state(np.random.default_rng(0))
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def fetched(**where):
        asked.append((where["repo_id"], where["filename"], where["revision"]))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    check(load_weights("hf:timm/resnet50.tv_in1k@abc", *network()), state)
    assert asked == [("timm/resnet50.tv_in1k", "model.safetensors", "abc")]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere.pth", "no file or folder nowhere.pth"),
        ("hub:timm/resnet50", r"hub:timm/resnet50 \(schemes: .*hf:"),
        ("nowhere.caffemodel:rgb", "no file or folder nowhere.caffemodel"),
        ("here.pth:rgb", "use one of :rgb and :bgr, and only for a .caffemodel"),
        ("here.caffemodel:rgb,bgr", "one of :rgb and :bgr"),
        ("here.onnx", "expected a file with suffix .caffemodel, .safetensors, .pth"),
    ],
)
def test_a_source_that_does_not_exist_is_one_line(tmp_path, monkeypatch, spec, said):
    monkeypatch.chdir(tmp_path)
    for name in ("here.pth", "here.caffemodel", "here.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        load_weights(spec, *network())
    assert "\n" not in str(error.value)


# Comparisons with PyTorch, if it is installed.


def test_files_that_pytorch_writes(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = {
        "w": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(5),
        "p": torch.nn.Parameter(torch.ones(2)),
    }
    for zipped_form in (True, False):
        torch.save({"model": state, "epoch": 3}, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped_form)
        found = read_pth(tmp_path / "net.pth")
        assert found.keys() == state.keys()
        for name, value in state.items():
            np.testing.assert_array_equal(found[name].astype(np.float64), value.detach().double().numpy())


def test_the_body_computes_what_pytorch_computes(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn.functional
    state = resnet_state(np.random.default_rng(0))
    state["conv1.weight"] *= 0.5
    pth(tmp_path / "net.pth", state)
    model, _ = network()
    variables = load_weights(str(tmp_path / "net.pth"), *network()).variables
    image = np.random.default_rng(1).uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    body = build_model(model).body
    own = {key: variables[key]["body"] for key in ("params", "frozen_stats")}
    ours = jax.jit(body.apply)(own, jnp.asarray(image), jnp.array([[64, 96]]))

    weights = {name: torch.from_numpy(np.asarray(array)) for name, array in state.items()}

    def norm(x, name):
        return nn.batch_norm(
            x, *(weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        )

    def stage(x, layer, depth, step):
        for n in range(depth):
            block, first = f"layer{layer}.{n}", step if n == 0 else 1
            y = nn.relu(norm(nn.conv2d(x, weights[f"{block}.conv1.weight"]), f"{block}.bn1"))
            y = nn.conv2d(y, weights[f"{block}.conv2.weight"], stride=first, padding=1)
            y = norm(nn.conv2d(nn.relu(norm(y, f"{block}.bn2")), weights[f"{block}.conv3.weight"]), f"{block}.bn3")
            if n == 0:
                x = norm(nn.conv2d(x, weights[f"{block}.downsample.0.weight"], stride=first), f"{block}.downsample.1")
            x = nn.relu(x + y)
        return x

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(image) / 255 - mean) / deviation).permute(0, 3, 1, 2)
    x = nn.max_pool2d(nn.relu(norm(nn.conv2d(x, weights["conv1.weight"], stride=2, padding=3), "bn1")), 3, 2, 1)
    x = stage(stage(x, 1, DEPTHS[0], 1), 2, DEPTHS[1], 2)
    for stream, step in zip(ours, (2, 3), strict=True):
        theirs = stage(x, 3, DEPTHS[2], step).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(stream, theirs, atol=1e-4 * np.abs(theirs).max())
