"""Evaluates average recall of every kept checkpoint of a training run (train.keep_checkpoints).

    python benchmarks/curve.py --config configs/coco_few.py --workdir runs/few --annotations val.json --images FOLDER

Prints a Markdown table with one row per checkpoint. WORKDIR/curve.json keeps the metrics, and a second call computes
only the missing ones. `--config.evaluation....` changes how the checkpoints are evaluated.
"""

import argparse
import json
from pathlib import Path

from fastmask_jax.configuration import load_config, parse_command_line
from fastmask_jax.evaluation.evaluate import evaluate
from fastmask_jax.evaluation.recall_table import Row, markdown_table
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.weights.checkpoints import Checkpoints
from fastmask_jax.weights.native import restore_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--steps", type=int, nargs="+", help="(default: all kept checkpoints)")
    options, overrides = parse_command_line(parser)
    config = load_config(options.config, overrides).unlock()
    config.evaluation.annotations, config.evaluation.images = options.annotations, options.images
    kept = Checkpoints(options.workdir)
    steps = options.steps or kept.steps
    kept.close()
    path = options.workdir / "curve.json"
    curve = json.loads(path.read_text()) if path.exists() else {}
    for step in map(str, steps):
        if step not in curve:
            model, variables, _ = restore_model(config, options.workdir, int(step))
            generator = ProposalGenerator(model, variables, config)
            curve[step] = evaluate(generator, options.workdir / "curve_proposals.json", print)
            path.write_text(json.dumps(curve, indent=1, sort_keys=True) + "\n")
    batch = config.train.batch_size
    print(markdown_table([Row(f"{int(step) * batch:,} images", curve[str(step)]) for step in steps]))


if __name__ == "__main__":
    main()
