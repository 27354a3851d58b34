"""Proposals of images: python predict.py --weights net.caffemodel IMAGE... --max_proposals 1000 --out DIR"""

import argparse
import sys
from pathlib import Path

from fastmask_jax.configuration import load_config, parse_command_line, run_command

_PUBLISHED = str(Path(__file__).parent / "configs" / "coco.py")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Writes object proposals of images to DIR/results.json in COCO results form; image_id is the "
        "number that a file's name ends with or, where the names have no distinct ones, the file's place (from 1).",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edge=1300",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--weights", required=True, metavar="SPEC", help="trained network: see docs/weights.md")
    parser.add_argument(
        "--config",
        help="config file, with a variant after a colon (default: that of a network of this project's own, "
        "configs/coco.py for others)",
    )
    parser.add_argument("--max_proposals", type=int, default=100, help="of an image (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("proposals"), metavar="DIR", help="(default: proposals)")
    options, overrides = parse_command_line(parser, arguments)
    if options.max_proposals < 1:
        parser.error(f"--max_proposals {options.max_proposals}: at least 1")
    missing = [path for path in options.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: no such image ({len(missing)} of {len(options.images)} are missing)")
    given = load_config(options.config, overrides) if options.config else None

    from fastmask_jax.inference.predict import predict_files  # JAX starts here: mistakes above are answered at once
    from fastmask_jax.inference.proposer import Proposer
    from fastmask_jax.weights.specs import config_of, load_trained

    config = given or config_of(options.weights, overrides) or load_config(_PUBLISHED, overrides)
    model, variables, loaded = load_trained(options.weights, config.model.to_dict())
    print("\n".join(loaded.lines()), file=sys.stderr)
    results = options.out / "results.json"
    proposer = Proposer(model, variables, options.max_proposals)
    done = predict_files(
        proposer, options.images, config.evaluation.to_dict(), results, lambda line: print(line, file=sys.stderr)
    )
    print(f"{results}: {done.proposals} proposals of {done.images} images; {done.unreadable} unreadable")
    return 1 if done.unreadable else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
