"""Command lines of every command with odd values. Inputs that do not exist end the sound ones before any real work."""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np

from benchmarks.fuzzing.json_files import truth_and_results
from benchmarks.fuzzing.mutation import pick
from fastmask_jax.errors import InvalidInput

_NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "7",
    "0.5",
    "1e9",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "9" * 30,
    "9" * 5000,
    "x",
    "",
    "0x10",
]
_TEXTS = [
    "nowhere",
    "",
    "a\nb",
    "\x1b[2J",
    "..",
    "/",
    "/dev/null",
    "@nowhere",
    "s3:",
    ":",
    "nowhere:zoom",
    "64x98",
    "any",
    "é",
]
_NUMERIC = {
    "predict": [
        *(
            "max_proposals",
            "score_threshold",
            "nms_iou",
            "min_area",
            "min_part",
            "fill_holes",
            "mask_threshold",
            "shown",
        ),
        *(
            "stability_weight",
            "rerank_iou",
            "long_edges",
            "tile",
            "tile_overlap",
            "max_pixels",
            "batch_size",
            "tolerance",
        ),
    ],
    "propose-dataset": [
        "max_proposals",
        "nms_iou",
        "batch_size",
        "shard_images",
        "actors_per_machine",
        "object_store_mb",
    ],
    "evaluate": ["step", "limit", "pictures", "processes", "process", "join_seconds"],
    "export": ["proposals", "batch", "size", "opset"],
    "prepare": ["workers", "seed", "val", "max_pixels"],
    "train": ["processes", "process", "join_seconds"],
    "demo": ["port"],
}
_WORDS = {
    "predict": (["weights", "config", "exif", "format", "tile", "config.evaluation.tile"], ["nowhere.jpg"]),
    "propose-dataset": (["weights", "exif", "image_column"], ["nowhere", "--out", "OUT"]),
    "evaluate": (["exif", "coordinator", "images"], ["--annotations", "TRUTH", "--results", "RESULTS"]),
    "export": (["config", "format"], ["--weights", "nowhere", "--format", "jax", "--out", "OUT.npz"]),
    "prepare": (["exif", "split"], ["coco", "--annotations", "TRUTH", "--images", "nowhere", "--out", "OUT"]),
    "train": (["weights", "workdir", "coordinator"], ["--config", "nowhere"]),
    "demo": (["host", "config"], ["--weights", "nowhere"]),
}


def command_line_case(folder: Path):
    truth, results = truth_and_results()
    places = {"TRUTH": folder / "truth.json", "RESULTS": folder / "results.json", "OUT": folder / "out"}
    places["TRUTH"].write_text(json.dumps(truth))
    places["RESULTS"].write_text(json.dumps(results))
    commands = list(_WORDS)
    if importlib.util.find_spec("ray") is None:
        commands.remove("propose-dataset")
    modules = {
        name: importlib.import_module(f"fastmask_jax.apps.command_line.{name.replace('-', '_')}") for name in commands
    }

    def case(rng: np.random.Generator) -> None:
        command = pick(rng, commands)
        texts, fixed = _WORDS[command]
        words = [str(places.get(word, word)) for word in fixed]
        for _ in range(int(rng.integers(1, 4))):
            name, values = (
                (pick(rng, _NUMERIC[command]), _NUMBERS) if rng.random() < 0.7 else (pick(rng, texts), _TEXTS)
            )
            words.append(f"--{name}={pick(rng, values)}")
        if rng.random() < 0.05:
            words.insert(int(rng.integers(len(words))), pick(rng, ["--", "--help_me", "-x", "--config.model.neck", ""]))
        try:
            modules[command].main(words)
        except SystemExit as exit_:  # argparse's: usage, then a line
            if exit_.code not in (0, 2):
                raise RuntimeError(f"exit status {exit_.code}") from exit_
            raise InvalidInput("a mistake on the command line") from None

    return case
