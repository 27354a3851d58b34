"""fastmask export: writes a network to one file, for this project or for other programs."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fastmask_jax.apps.command_line.number_flags import integer
from fastmask_jax.config_schema import MOST_IMAGES, MOST_PROPOSALS
from fastmask_jax.configuration import load_config, parse_command_line
from fastmask_jax.full_disk import AGAIN, naming_full_disk

_SUFFIXES = {"safetensors": ".safetensors", "jax": ".npz", "onnx": ".onnx"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options, overrides = parse_command_line(parser, arguments)
    if options.out.suffix != _SUFFIXES[options.format]:
        parser.error(f"--out {options.out}: the file name must end in {_SUFFIXES[options.format]}")
    weights_alone = options.format == "safetensors"
    others = {"safetensors": ("size", "batch", "proposals", "opset"), "jax": ("half", "opset"), "onnx": ("half",)}
    for name in others[options.format]:
        if getattr(options, name) not in (None, False):
            parser.error(f"--{name} does not apply to --format {options.format}")
    given = load_config(options.config, overrides) if options.config else None

    from fastmask_jax.weights.sources import config_of, load_trained  # imports JAX

    config = given or config_of(options.weights, overrides)
    if config is None:
        parser.error(f"--config is needed: {options.weights} does not contain the config of its network")
    trained = load_trained(options.weights, config.model.to_dict())
    print("\n".join(trained.report.lines()), file=sys.stderr)
    with naming_full_disk(options.out, AGAIN):
        print(_write_weights(options, config, trained) if weights_alone else _write_function(options, config, trained))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmask export",
        description="Writes a network to one file. safetensors: weights and config, for --weights of every command "
        "(docs/weights.md). jax, onnx: the proposal function, images -> (scores, windows, masks), which runs without "
        "this project, with JAX alone or with ONNX Runtime (docs/export.md).",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edges=448",
    )
    parser.add_argument(
        "--weights", required=True, metavar="SPEC", help="trained network, such as a training run: see docs/weights.md"
    )
    parser.add_argument(
        "--config", help="config file, with a variant after a colon (default: the one stored with the weights)"
    )
    parser.add_argument("--format", required=True, choices=list(_SUFFIXES), help="onnx needs requirements-export.txt")
    suffixes = ", ".join(f"NAME{suffix} ({name})" for name, suffix in _SUFFIXES.items())
    parser.add_argument("--out", type=Path, required=True, help=f"output file: {suffixes}")
    weights = parser.add_argument_group("safetensors")
    weights.add_argument("--half", action="store_true", help="round kernels to float16: about half the size")
    function = parser.add_argument_group("jax and onnx")
    function.add_argument(
        "--size", type=_size, metavar="HxW", help="padded size of the images (default: the config's largest bucket)"
    )
    function.add_argument("--batch", type=_batch, metavar="N", help="batch size, or 'any' (default: 1)")
    function.add_argument(
        "--proposals", type=integer(1, MOST_PROPOSALS), metavar="K", help="proposals per image (default: 100)"
    )
    onnx = parser.add_argument_group("onnx")
    onnx.add_argument(
        "--opset", type=integer(13, 24), metavar="N", help="version of the ONNX operators, 13 to 24 (default: 23)"
    )
    return parser


def _write_weights(options: argparse.Namespace, config: ConfigDict, trained: Any) -> str:
    from fastmask_jax.weights.safetensors_file import write_safetensors

    count = write_safetensors(options.out, trained.variables, config.to_dict(), options.half)
    return f"{options.out}: {count} arrays, {trained.report.numbers:,} numbers, {options.out.stat().st_size:,} bytes"


def _write_function(options: argparse.Namespace, config: ConfigDict, trained: Any) -> str:
    from fastmask_jax.export.jax_file import write_jax
    from fastmask_jax.export.onnx_file import OPSET, write_onnx
    from fastmask_jax.export.spec import ExportSpec

    settings = config.evaluation
    height, width = options.size or max(settings.buckets, key=lambda bucket: bucket[0] * bucket[1])
    batch = {None: 1, _ANY: None}.get(options.batch, options.batch)
    proposals = 100 if options.proposals is None else options.proposals
    spec = ExportSpec(height, width, batch, proposals, max(settings.long_edges), settings.mask_threshold)
    if options.format == "jax":
        write_jax(options.out, trained.model, trained.variables, spec)
    else:
        write_onnx(options.out, trained.model, trained.variables, spec, options.opset or OPSET)
    return (
        f"{options.out}: images of {height}x{width}, batch {_ANY if batch is None else batch}, "
        f"{proposals} proposals of each; {options.out.stat().st_size:,} bytes"
    )


_ANY = "any"


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 656x872")
    return int(match[1]), int(match[2])


def _batch(text: str) -> int | str:
    return _ANY if text == _ANY else integer(1, MOST_IMAGES)(text)
