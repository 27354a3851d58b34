"""Damaged weight files of every format, and sound files with a changed header, config or pickle."""

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.fuzzing.mutation import changed, damaged, pick
from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.weights.safetensors_file import write_safetensors
from fastmask_jax.weights.sources import config_of, load_weights
from tests import caffe_network
from tests.tiny import _NETWORK, ROOT


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _changed_header(rng: np.random.Generator, data: bytes) -> bytes:
    header, rest = _header(data)
    if rng.random() < 0.5:
        metadata = header["__metadata__"]
        config = changed(rng, json.loads(metadata["fastmask_jax_config"]))
        header["__metadata__"] = {"fastmask_jax_config": json.dumps(config)}
    else:
        header = changed(rng, header)
        for entry in header.values() if isinstance(header, dict) else ():
            if isinstance(entry, dict) and rng.random() < 0.05:
                entry["dtype"] = pick(rng, ["F4", "F8_E4M3", "F8_E5M2", "BF16", "I64", "BOOL", "C64", "F6_E2M3", "U8"])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def _archive(path: Path, tree: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", tree)
        archive.writestr("a/data/0", np.arange(64, dtype=np.float32).tobytes())
    return path.read_bytes()


def _shapes(model: dict[str, Any]) -> Any:
    network = build_model(model)
    return jax.eval_shape(lambda: initial_variables(network, 0))


def weight_case(folder: Path):
    overrides = [f"--config.{key}={value}" for key, value in _NETWORK.items()]
    config = load_config("shapes", overrides)
    model = config.model.to_dict()
    variables = _shapes(model)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    write_safetensors(folder / "sound.safetensors", zeros, config.to_dict())
    sound = (folder / "sound.safetensors").read_bytes()
    theirs = load_config(str(ROOT / "configs/coco.py"), caffe_network.command_line()).model.to_dict()
    their_variables = _shapes(theirs)
    caffe = caffe_network.net(caffe_network.random_network(np.random.default_rng(0)))
    numbers = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x40tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + numbers + b"K\x00K\x04K\x10\x86K\x10K\x01\x86\x89NtR"
    trees = [
        b"\x80\x02}X\x0c\x00\x00\x00conv1.weight" + tensor + b"s.",
        b"\x80\x02}X\x05\x00\x00\x00modelX\x01\x00\x00\x00a" + b"s.",
        pickle.dumps({"epoch": 3, "list": list(range(30))}, 2),
    ]

    def case(rng: np.random.Generator) -> None:
        path, chosen, start = folder / "net.safetensors", model, variables
        match int(rng.integers(5)):
            case 0:
                data = damaged(rng, sound)
            case 1 | 2:
                data = _changed_header(rng, sound)
            case 3:
                path = folder / pick(rng, ["net.pth", "net.bin"])
                tree = pick(rng, trees)
                data = _archive(path, damaged(rng, tree) if rng.random() < 0.7 else tree)
                data = damaged(rng, data) if rng.random() < 0.5 else data
            case _:
                path, chosen, start = folder / "net.caffemodel", theirs, their_variables
                data = damaged(rng, caffe)
        path.write_bytes(data)
        found = config_of(str(path))
        load_weights(str(path), chosen, start)
        if found is not None:
            build_model(found.model.to_dict())

    return case
