"""Finds, parses and runs code blocks of the documentation, at tiny scale in one process.

As a program, it reads {"blocks": [...]} from standard input and runs the blocks in the working directory, in order: see
`run_blocks`.
"""

import json
import re
import runpy
import shlex
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.weights.safetensors_file import write_safetensors
from tests import tiny

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\S.*\n)+")
_PROGRAMS = ("python", "make", "pip", "bash")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")

_COMMON = {
    **{key: value for key, value in tiny.settings(Path()).items() if not key.endswith((".records", ".images"))},
    "train.evaluate_every": 0,
    "train.images": 4,
    "train.batch_size": 2,
    "train.norm_calibration_images": 0,
    "model.body.stream_strides": (2,),
    "evaluation.proposals": 100,  # as many as the pages request from the library, so that both use the same program
}
_RESNET = {"model.body.middle_stride": 1, "model.strides": (8,)}
_LITE = {
    "model.body.channels": (4, 4, 4, 4, 4),
    "model.body.depths": (1, 1, 1, 1),
    "model.body.features": 8,
    "model.strides": (16,),
}


_STAND_IN = {"coco_few": "stand_in.safetensors"}  # replaces the bundled network by a tiny one of the same layout


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    mark: str  # the comment before it: "runs", "file: PATH" or nothing
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Returns the fenced blocks of a Markdown file, then the indented blocks that contain commands."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page.name, text.count("\n", 0, m.start()) + 1, m["language"], m["mark"] or "", m["text"])
        for m in _FENCE.finditer(text)
    ]
    rest = _FENCE.sub(lambda m: re.sub(r"[^\n]", "", m[0]), text)  # lines keep their numbers
    for m in _INDENTED.finditer(rest):
        if (inside := textwrap.dedent(m[0])).split(maxsplit=1)[0] in _PROGRAMS:
            found.append(Block(page.name, rest.count("\n", 0, m.start()) + 1, "bash", "", inside))
    return found


def commands(text: str) -> list[list[str]]:
    """Returns the words of each command line, without leading variable assignments and without the program's folder."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    for words in lines:
        while words and _ASSIGNMENT.match(words[0]):
            words.pop(0)
    return [[Path(words[0]).name, *words[1:]] for words in lines if words]


def tiny_overrides(config: str) -> list[str]:
    """Returns overrides that make a config tiny: a network with few channels, images of 96 pixels, two steps."""
    body = load_config(config).model.body.kind
    changes = _COMMON | _RESNET
    if body == "efficientnet_lite":
        changes = {key: value for key, value in _COMMON.items() if key != "model.body.width"} | _LITE
    changes.pop("evaluation.annotations")
    return [f"--config.{key}={value}".replace(" ", "") for key, value in changes.items()]


def write_stand_in() -> None:
    """Writes the network that replaces the bundled one, with random weights."""
    config = load_config("configs/coco_few.py", tiny_overrides("configs/coco_few.py"))
    variables = initial_variables(build_model(config.model.to_dict()), seed=0)
    write_safetensors(Path(_STAND_IN["coco_few"]), variables, config.to_dict())


def run_command(words: Sequence[str]) -> None:
    """Runs `python SCRIPT …` or `python -m MODULE …` here, at tiny scale; raises AssertionError on failure."""
    assert words[0] == "python", f"only python commands are run: {' '.join(words)}"
    words = [_STAND_IN.get(word, word) for word in words]
    module, arguments = (words[2], list(words[3:])) if words[1] == "-m" else ("", list(words[2:]))
    if words[1] in ("train.py", "evaluate.py") and "--config" in arguments:
        arguments += tiny_overrides(arguments[arguments.index("--config") + 1])
    if words[1] == "prepare.py":
        arguments += ["--workers", "0"]
    sys.argv = [words[1], *arguments]
    try:
        runpy.run_module(module, run_name="__main__") if module else runpy.run_path(words[1], run_name="__main__")
    except SystemExit as exit_:
        assert exit_.code in (None, 0), f"exit code {exit_.code} of {' '.join(words)}"


def run_blocks(blocks: Sequence[Block]) -> None:
    """Runs bash blocks command by command, and the python blocks of a page in one namespace.

    Prints each block to standard error before running it.
    """
    write_stand_in()
    namespaces: dict[str, dict] = {}
    for block in blocks:
        print(f"== {block}, {time.process_time():.0f} s of CPU so far", file=sys.stderr, flush=True)
        if block.language == "bash":
            for words in commands(block.text):
                run_command(words)
        else:
            namespace = namespaces.setdefault(block.page, {"__name__": block.page})
            text = re.sub(r'"(\w+)"', lambda word: f'"{_STAND_IN.get(word[1], word[1])}"', block.text)
            exec(compile(text, str(block), "exec"), namespace)


if __name__ == "__main__":
    run_blocks([Block(*fields) for fields in json.load(sys.stdin)["blocks"]])
