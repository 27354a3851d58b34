"""The documentation matches the code: its commands run, and settings, options and messages exist."""

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import itertools
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from fastmask_jax.apps.command_line.main import COMMANDS
from fastmask_jax.configuration import load_config
from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposals import Proposals
from tests import tiny
from tests.docs_commands import Block, blocks_of, commands

DOCS = tiny.ROOT / "docs"
PAGES = [tiny.ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
RUN_IN_ORDER = (
    "train_coco.md",
    "own_data.md",
    "evaluate.md",
    "python.md",
    "formats.md",
    "large_images.md",
    "extending.md",
    "README.md",
)  # each needs the previous ones
OTHER_PROGRAMS = {"cd", "curl", "export", "for", "grep", "mkdir", "mount", "python3.13", "ray", "tensorboard"}


def blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like a clone, with data at the paths of the documentation: drawn shapes, under COCO's names."""
    folder = tmp_path_factory.mktemp("clone")
    for path in tiny.ROOT.iterdir():
        if path.suffix in (".py", ".txt", ".lock") or path.name in (
            "fastmask_jax",
            "benchmarks",
            "docs",
            "examples",
            "Makefile",
        ):
            (folder / path.name).symlink_to(path)
    shutil.copytree(tiny.ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks("python"):
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.text)

    data = tiny.dataset(tmp_path_factory.getbasetemp())
    (folder / "photos").symlink_to(data / "images")
    (folder / "runs").mkdir()
    (folder / "runs" / "shapes").symlink_to("coco")  # a tiny run is a tiny run
    coco = folder / "datasets" / "coco"
    (coco / "annotations").mkdir(parents=True)
    (folder / "datasets" / "shapes").symlink_to(data)
    for split in ("train", "val"):
        annotations = data / "annotations" / f"instances_{split}.json"
        (folder / f"{split}.json").symlink_to(annotations)
        for year in (2014, 2017):
            (coco / "annotations" / f"instances_{split}{year}.json").symlink_to(annotations)
            (coco / f"{split}{year}").symlink_to(data / "images")
    for name, image in zip(("photo.jpg", "other.jpg"), sorted((data / "images").glob("val*")), strict=False):
        (folder / name).symlink_to(image)
    return folder


def test_marked_blocks_run(place, tmp_path_factory):
    """Runs the pages in one process, from those that need nothing to those that need a trained network."""
    marked = [block for page in PAGES for block in blocks_of(page) if block.mark == "runs"]
    assert {block.page for block in marked} == set(RUN_IN_ORDER)
    marked.sort(key=lambda block: RUN_IN_ORDER.index(block.page))
    environment = tiny.environment(tmp_path_factory.getbasetemp() / "compiled") | {"PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs_commands"],
        input=json.dumps({"blocks": marked}),
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "did you mean nms_iou?" in done.stdout
    assert {path.name for path in (place / "runs").iterdir()} == {"before", "coco", "mine", "own", "shapes"}
    assert (place / "proposals.png").exists() and (place / "floor.png").exists()


class _Parsed(BaseException):
    """Raised instead of running a command with its arguments."""


@pytest.fixture
def parsing_alone(monkeypatch):
    """Makes commands stop after parsing: the outermost parser raises `_Parsed`."""
    original, depth = argparse.ArgumentParser.parse_known_args, 0

    def parse(parser, arguments=None, namespace=None):
        nonlocal depth
        depth += 1
        try:
            found = original(parser, arguments, namespace)
        finally:
            depth -= 1
        if depth:
            return found
        raise _Parsed(*found)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)


@pytest.mark.filterwarnings("ignore:.* found in sys.modules after import:RuntimeWarning")  # imported before
@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_are_such(block, place, parsing_alone, monkeypatch):
    """Programs, scripts, targets, options, configs, settings and files in commands exist."""
    monkeypatch.chdir(place)
    targets = re.findall(r"^([\w-]+):", (tiny.ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(block.text):
        if words[:2] == ["fastmask", "propose-dataset"]:  # has no script, and its parser needs Ray
            if importlib.util.find_spec("ray"):
                propose = importlib.import_module("fastmask_jax.apps.command_line.propose_dataset")
                with pytest.raises(_Parsed):
                    propose.main(words[2:])
            continue
        if words[0] == "fastmask":
            words = ["python", f"{words[1]}.py", *words[2:]]
        if words[0] == "python":
            _check_python(words, monkeypatch)
        elif words[0] == "make":
            assert set(words[1:]) - {word for word in words if "=" in word} <= set(targets)
        elif words[0] == "pip":
            assert words[1] == "install"
            files = [file for option, file in itertools.pairwise(words) if option in ("-r", "-c")]
            assert all(Path(file).is_file() or f"> {file}" in block.text for file in files)
        elif words[0] == "bash":
            assert Path(words[1]).is_file()
        else:
            assert words[0] in OTHER_PROGRAMS, f"{words[0]}: add it to what is known"


def _check_python(words, monkeypatch):
    if words[1] == "-c":
        compile(words[2], "-c", "exec")
        return
    module, arguments = (words[2], words[3:]) if words[1] == "-m" else ("", words[2:])
    path = Path(importlib.util.find_spec(module).origin if module else words[1])
    if "argparse" not in path.read_text() and path.stem not in COMMANDS:
        return
    monkeypatch.setattr(sys, "argv", [words[1], *arguments])
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    with pytest.raises(_Parsed) as caught:
        runpy.run_module(module, run_name="__main__") if module else runpy.run_path(str(path), run_name="__main__")
    options, left = caught.value.args
    overrides = [word for word in arguments if word.startswith("--config.")]
    assert set(left) <= set(overrides), left
    if overrides or getattr(options, "config", None):
        load_config(getattr(options, "config", None) or "configs/coco.py", overrides)


def table(page: str, columns: int) -> list[list[str]]:
    """Returns the cells of all table rows whose first cell is code."""
    rows = re.findall(r"^\| (`.*) \|$", (DOCS / page).read_text(), re.MULTILINE)
    return [cells for row in rows if len(cells := row.split(" | ")) == columns]


def flat(config: ConfigDict, prefix: str = "") -> dict:
    found = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {f"{prefix}{name}": value}
    return found


def test_every_setting_is_explained():
    """The table follows the config's order, with type and default; then the settings of the other body."""
    rows = [
        (key.strip("`"), kind, ast.literal_eval(default.strip("`")))
        for key, kind, default, _ in table("configuration.md", 4)
    ]
    paper = flat(load_config(str(tiny.ROOT / "configs/coco.py")))
    lite = flat(load_config(str(tiny.ROOT / "configs/coco_lite.py")).model.body, "model.body.")
    assert sorted(rows[: len(paper)]) == sorted((key, type(value).__name__, value) for key, value in paper.items())
    assert sorted(rows[len(paper) :]) == sorted((key, type(value).__name__, value) for key, value in lite.items())


def test_every_option_and_attribute_is_explained():
    options = [
        (name.strip("`"), ast.literal_eval(default.strip("`")))
        for name, default, _ in table("python.md", 3)[: len(dataclasses.fields(ProposeOptions))]
    ]
    assert sorted(options) == sorted((field.name, field.default) for field in dataclasses.fields(ProposeOptions))
    attributes = [cells[0].strip("`") for cells in table("python.md", 3)[len(options) :]]
    assert attributes == [field.name for field in dataclasses.fields(Proposals)]
    for name in re.findall(r"`(\w+)(?:\(|`)", " ".join(cells[0] for cells in table("python.md", 2))):
        assert hasattr(Proposals, name) or name == "len", name


def test_every_check_of_the_data_is_explained():
    text = (DOCS / "own_data.md").read_text()
    assert [row for row in re.findall(r"^\| (.+?) \| .+ \|$", text, re.MULTILINE) if row in set(Problem)] == list(
        Problem
    )


def templates() -> list[str]:
    """Returns all string literals in the code, with … for inserted values."""
    found = []
    for path in (tiny.ROOT / "fastmask_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_are_those_of_the_code():
    known = templates()
    messages = [
        line
        for block in blocks_of(DOCS / "troubleshooting.md")
        if block.language == "text"
        for line in block.text.splitlines()
    ]
    assert len(messages) > 20
    for message in messages:
        assert any(message.rstrip("…") in text for text in known), message


def test_drawings_are_those_of_the_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))  # as for a script in this folder
    monkeypatch.setattr(sys, "argv", ["drawings.py", str(tmp_path)])
    runpy.run_path(str(DOCS / "drawings.py"), run_name="__main__")
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (DOCS / "pictures").glob("*.svg")}
    assert drawn == kept, "after a change of the code: PYTHONPATH=. python docs/drawings.py"
    assert set(re.findall(r"pictures/(\w+\.svg)", (DOCS / "how_it_works.md").read_text())) == set(drawn)


def test_links_of_the_readme_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", (tiny.ROOT / "README.md").read_text()):
        assert (tiny.ROOT / link).exists(), link


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (requirements-docs.txt)"
)
def test_site_builds(tmp_path):
    """Builds with --strict: every linked page, picture and heading exists; pages load only files of the site."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=tiny.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page.name: page.read_text() for page in (tmp_path / "site").glob("*.html")}
    del pages["404.html"]  # for servers: its links are absolute
    assert {f"{page.stem}.html" for page in DOCS.glob("*.md")} <= set(pages)
    for name, text in pages.items():
        loaded = re.findall(r'<(?:script|img)[^>]* src="([^"]+)"|<link[^>]* rel="stylesheet"[^>]* href="([^"]+)"', text)
        assert all((tmp_path / "site" / (source or style)).is_file() for source, style in loaded), name
    assert (tmp_path / "site" / "search" / "search_index.js").exists()
