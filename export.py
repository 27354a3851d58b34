"""A network for other programs: python export.py --weights runs/coco --format onnx --batch any --out net.onnx"""

import argparse
import re
import sys
from pathlib import Path

from fastmask_jax.configuration import load_config, parse_command_line, run_command

_SUFFIXES = {"jax": ".npz", "onnx": ".onnx"}


def main(arguments: list[str] | None = None) -> int:
    """Runs export.py; returns its exit status."""
    parser = argparse.ArgumentParser(
        description="Writes the proposal function of a network, images -> (scores, windows, masks), to one file that "
        "runs without this project: with JAX alone, or with ONNX Runtime (docs/export.md).",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edge=448",
    )
    parser.add_argument("--weights", required=True, metavar="SPEC", help="trained network: see docs/weights.md")
    parser.add_argument(
        "--config", help="config file, with a variant after a colon (default: that of a network of this project's own)"
    )
    parser.add_argument("--format", required=True, choices=sorted(_SUFFIXES), help="onnx: requirements-export.txt")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="of the padded images, in pixels (default: the config's largest)"
    )
    parser.add_argument("--batch", type=_batch, default=1, metavar="N", help="images at once, or: any (default: 1)")
    parser.add_argument("--proposals", type=int, default=100, metavar="K", help="of an image (default: 100)")
    parser.add_argument("--out", type=Path, required=True, help="the file to write: NAME.npz (jax), NAME.onnx (onnx)")
    options, overrides = parse_command_line(parser, arguments)
    if options.out.suffix != _SUFFIXES[options.format]:
        parser.error(f"--out {options.out}: the file's name must end in {_SUFFIXES[options.format]}")
    given = load_config(options.config, overrides) if options.config else None

    from fastmask_jax.export.form import Form  # JAX starts here: mistakes above are answered at once
    from fastmask_jax.export.jax_file import write_jax
    from fastmask_jax.export.onnx_file import write_onnx
    from fastmask_jax.weights.specs import config_of, load_trained

    config = given or config_of(options.weights, overrides)
    if config is None:
        parser.error(f"--config: {options.weights} does not say which config its network has")
    settings = config.evaluation
    height, width = options.size or max(settings.buckets, key=lambda bucket: bucket[0] * bucket[1])
    form = Form(height, width, options.batch, options.proposals, settings.long_edge, settings.mask_threshold)
    model, variables, report = load_trained(options.weights, config.model.to_dict())
    print("\n".join(report.lines()), file=sys.stderr)
    write = write_jax if options.format == "jax" else write_onnx
    write(options.out, model, variables, form)
    batch = "any" if form.batch is None else form.batch
    print(
        f"{options.out}: images of {height}x{width}, batch {batch}, {form.proposals} proposals of each; "
        f"{options.out.stat().st_size:,} bytes"
    )
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 656x872")
    return int(match[1]), int(match[2])


def _batch(text: str) -> int | None:
    if text != "any" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor any")
    return None if text == "any" else int(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
