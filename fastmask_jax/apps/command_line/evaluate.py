"""fastmask evaluate: computes average recall on COCO-format data."""

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastmask_jax.apps.command_line.cluster_flags import add_cluster_flags, check_cluster_flags
from fastmask_jax.apps.command_line.interrupts import ending_at_once
from fastmask_jax.apps.command_line.number_flags import integer
from fastmask_jax.configuration import load_config, parse_command_line
from fastmask_jax.data.exif import Exif
from fastmask_jax.evaluation.average_recall import Results, average_recall
from fastmask_jax.evaluation.failure_sheet import write_sheet
from fastmask_jax.evaluation.recall_table import PUBLISHED_FASTMASK, Row, text_table
from fastmask_jax.full_disk import AGAIN, naming_full_disk
from fastmask_jax.whole_file import whole_file

SHEET = Path("pictures/sheet.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="fastmask evaluate",
        description="Runs a network on a COCO-format split and prints average recall, or scores a results file.",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edges=592,1184",
    )
    parser.add_argument("--config", help="config file, with a variant after a colon: configs/coco.py:zoom")
    parser.add_argument("--workdir", type=Path, help="the training run; also receives metrics.json and proposals.json")
    parser.add_argument("--weights", metavar="SPEC", help="network to use instead of --workdir's: see docs/weights.md")
    parser.add_argument(
        "--step", type=integer(0), help="checkpoint to use (default: the best, or the latest if none was evaluated)"
    )
    parser.add_argument("--annotations", type=Path, help="COCO instances JSON (default: the config's)")
    parser.add_argument("--images", type=Path, help="its image folder (default: the config's)")
    parser.add_argument("--limit", type=integer(1), help="evaluate only the first LIMIT images by sorted id")
    parser.add_argument(
        "--pictures", type=integer(0), default=0, metavar="N", help="draw the first N images to WORKDIR/pictures"
    )
    parser.add_argument(
        "--sheet",
        nargs="?",
        const="",
        metavar="PNG",
        help=f"draw the best matched, worst matched and missed objects as one picture (default: WORKDIR/{SHEET})",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="score this COCO results file of any system, or folder of fastmask propose-dataset, instead of running a "
        "network",
    )
    parser.add_argument(
        "--exif",
        choices=("ignore", "apply"),
        help="EXIF orientation of the images, also of --sheet: ignore: pixels as stored, as in COCO; apply: turned "
        "upright (default: the config's; with --results: ignore)",
    )
    add_cluster_flags(parser)
    options, overrides = parse_command_line(parser, arguments)
    check_cluster_flags(parser, options)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)

    if options.results:
        if not options.annotations:
            parser.error("--results needs --annotations, the instances JSON to score against")
        if options.sheet is not None and not options.images:
            parser.error("--sheet with --results needs --images, the folder of the images to draw")
        results: Any = options.results
        if results.is_dir():
            from fastmask_jax.evaluation.parquet_folder import parquet_results

            results = parquet_results(options.results, options.annotations)
        metrics = average_recall(options.annotations, results, limit=options.limit)
        print(text_table([Row(options.results.name, metrics), PUBLISHED_FASTMASK]))
        if options.sheet is not None:
            path = Path(options.sheet or (options.workdir or options.results.parent) / SHEET)
            with naming_full_disk(path, AGAIN):
                _draw_sheet(options.annotations, options.images, results, path, options.limit, options.exif or "ignore")
        return 0
    if not options.config or not options.workdir:
        parser.error("give --config and --workdir, or --results and --annotations")
    if options.weights and options.step is not None:
        parser.error("--step selects a checkpoint of --workdir, which --weights replaces: give one of them")
    config = load_config(options.config, overrides).unlock()
    for name in ("annotations", "images", "limit", "exif"):
        if getattr(options, name) is not None:
            config.evaluation[name] = str(getattr(options, name)) if name != "limit" else getattr(options, name)

    with ending_at_once():  # JAX is imported here, after the fast checks
        from fastmask_jax import cluster

    with cluster.joined(options), naming_full_disk(options.workdir, AGAIN):
        cluster.check_shared(options.workdir)
        metrics = _evaluate(config, options.workdir, options.step, options.weights)
        if cluster.process() == 0:
            _report(metrics, config, options)
    return 0 if not metrics["unreadable"] else 1


def _report(metrics: dict[str, float], config: Any, options: argparse.Namespace) -> None:
    """Prints the table; writes metrics.json and the requested pictures."""
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}  # JSON knows no NaN
    with whole_file(options.workdir / "metrics.json") as part:
        part.write_text(json.dumps(finite, indent=2) + "\n")
    ours = Row(str(options.workdir), metrics, metrics["seconds_per_image"])
    print(text_table([ours, PUBLISHED_FASTMASK]))
    where = f"{options.workdir}/metrics.json and proposals.json"
    print(f"\n{metrics['images']} images, {metrics['unreadable']} unreadable; {where}")
    if options.pictures:
        draw(config, options.workdir, options.pictures)
    if options.sheet is not None:
        split = config.evaluation
        where = Path(split.annotations), Path(split.images), options.workdir / "proposals.json"
        _draw_sheet(*where, Path(options.sheet or options.workdir / SHEET), split.limit or None, split.exif)


def draw(config: Any, workdir: Path, count: int) -> None:
    """Draws the first `count` images with their proposals."""
    from fastmask_jax.evaluation.match_pictures import write_pictures

    where = Path(config.evaluation.annotations), Path(config.evaluation.images), workdir / "proposals.json"
    written = write_pictures(*where, workdir / "pictures" / "evaluation", count, config.evaluation.exif)
    print(f"{len(written)} pictures in {written[0].parent}")


def _draw_sheet(
    annotations: Path, images: Path, results: Results, path: Path, limit: int | None, exif: Exif = "ignore"
) -> None:
    write_sheet(annotations, images, results, path, limit, exif)
    print(f"contact sheet: {path}")


def _evaluate(config: Any, workdir: Path, step: int | None, weights: str | None) -> dict[str, float]:
    with ending_at_once():
        from fastmask_jax.evaluation.evaluate import evaluate
        from fastmask_jax.inference.generator import ProposalGenerator
        from fastmask_jax.weights.native import restore_model
        from fastmask_jax.weights.sources import load_trained

    if weights:
        model, variables, report = load_trained(weights, config.model.to_dict())
        print("\n".join(report.lines()), file=sys.stderr)
    else:
        model, variables, step = restore_model(config, workdir, step)
        print(f"step {step} of {workdir}", file=sys.stderr)
    generator = ProposalGenerator(model, variables, config, report=partial(tqdm.write, file=sys.stderr))

    def watch(found: Any, total: int) -> Any:
        return tqdm(found, total=total, unit="image", disable=None)

    return evaluate(generator, workdir / "proposals.json", tqdm.write, watch)
