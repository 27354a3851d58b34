"""A trained network as one file: python export_weights.py --workdir runs/coco --out net.safetensors"""

import argparse
import os.path
import sys
from pathlib import Path

from fastmask_jax.configuration import load_config, parse_command_line, run_command


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Writes the network of a training run, or of any other source of weights, to one .safetensors file "
        "(docs/weights.md gives the names), which --weights takes anywhere.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", help="training run: its best checkpoint, or else the latest")
    source.add_argument("--weights", metavar="SPEC", help="any other source: see docs/weights.md")
    parser.add_argument("--config", help="config file (default: the training run's own)")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, NAME.safetensors")
    parser.add_argument("--half", action="store_true", help="kernels as float16: about half the size, rounded")
    options, overrides = parse_command_line(parser, arguments)
    if options.out.suffix != ".safetensors":
        parser.error(f"--out {options.out}: the file's name must end in .safetensors")
    given = load_config(options.config, overrides) if options.config else None

    from fastmask_jax.weights.safetensors_file import write_safetensors  # JAX starts here
    from fastmask_jax.weights.specs import config_of, load_trained

    # A folder may be named like a source of another kind: "shapes".
    spec = options.weights or os.path.join(".", options.workdir)
    config = given or config_of(spec, overrides)
    if config is None:
        parser.error(f"--config: {spec} does not say which config its network has")
    _, variables, report = load_trained(spec, config.model.to_dict())
    print("\n".join(report.lines()), file=sys.stderr)
    count = write_safetensors(options.out, variables, config.to_dict(), options.half)
    print(f"{options.out}: {count} arrays, {report.numbers:,} numbers, {options.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
