"""Packaging: requirements, constraints and extras agree, and a missing package is one line."""

import re
import subprocess
import sys
import tomllib

import pytest

from fastmask_jax.apps.command_line.missing_packages import EXTRAS
from tests.tiny import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lines(name: str) -> list[str]:
    """Returns the requirements of a file, without comments."""
    found = [line.partition(" #")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def test_what_inference_needs_is_part_of_the_requirements():
    base = PROJECT["project"]["dependencies"]
    assert base == [line for line in lines("requirements.txt") if line in base]


def package(line: str) -> str:
    """Returns the name of a requirement, normalized as by pip."""
    return re.split(r"[=<>;]", line)[0].lower().replace("_", "-")


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_no_requirement_has_an_upper_bound(name):
    """Lower bounds with exclusions keep an installed jax; upper bounds become outdated with every quarterly release."""
    for line in lines(name):
        if line == "mkdocs>=1.6,<2":  # builds the pages alone; 2 is announced as another program
            continue
        specifier = re.sub(r"^[\w.\[\]-]+|;.*", "", line)
        assert re.fullmatch(r"(>=[\d.]+)(,!=[\d.]+)*", specifier.strip()), line


def test_constraints_pin_each_requirement_once_for_each_python():
    markers: dict[str, list[str]] = {}
    for pin in lines("constraints.txt"):
        markers.setdefault(package(pin), []).append(pin.partition(";")[2].strip())
    assert {package(line) for line in lines("requirements.txt")} <= markers.keys()
    for name, found in markers.items():
        assert sorted(found) in ([""], ['python_version < "3.12"', 'python_version >= "3.12"']), name


def test_every_extra_exists():
    extras = PROJECT["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    for module, (extra, requirements) in EXTRAS.items():
        assert requirements in extras[extra]["file"], module
        assert (ROOT / requirements).is_file()


def command(name: str, blocked: tuple[str, ...], *arguments: str, cwd):
    """Runs `fastmask NAME ...` in a process that cannot import some packages; returns (exit code, stderr)."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from fastmask_jax.apps.command_line.main import run\n"
        f"run({name!r}, *{arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "blocked", "arguments"),
    [
        ("train", ("grain",), ("--config", "shapes")),
        ("prepare", ("tensorflow_datasets", "grain"), ("shapes", "--out", "here")),
    ],
)
def test_a_missing_package_is_one_line(name, blocked, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code, error = command(name, blocked, *arguments, cwd=tmp_path)
    assert code == 2
    assert error == (
        f"error: fastmask {name} needs {blocked[0]}, which is not installed: pip install 'fastmask_jax[train]', "
        "or in a checkout pip install -r requirements.txt\n"
    )


def test_records_without_array_record_are_one_line(tmp_path, monkeypatch):
    """As on Windows, where array_record has no release: the error comes before anything is drawn."""
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'array_record' else found(name, *more)\n"
        "from fastmask_jax.apps.command_line.main import run\n"
        "run('prepare', 'shapes', '--out', 'here')"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: records need array_record, which is not installed")
    assert "WSL2" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "here").exists()


def python_at(path, answer: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)


def test_make_takes_the_newest_python_that_works(tmp_path):
    """A failing pyenv shim of an inactive version is on PATH; the version itself is not."""
    version = "{}.{}".format(*sys.version_info)
    python_at(tmp_path / "shims" / "python3.99", "echo 'pyenv: python3.99: command not found' >&2; exit 127")
    python_at(tmp_path / "shims" / f"python{version}", "exit 127")
    real = tmp_path / "pyenv" / "versions" / f"{version}.1" / "bin" / "python"
    python_at(real, f'exec {sys.executable} "$@"')
    environment = {"PYENV_ROOT": str(tmp_path / "pyenv"), "PATH": f"{tmp_path}/shims:/usr/bin:/bin"}

    def found(*versions):
        words = [str(ROOT / ".ci" / "find_python"), *versions]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    assert found("3.99").returncode == 1 and not found("3.99").stdout
    answer = found("3.99", version)
    assert answer.returncode == 0
    again = subprocess.run([answer.stdout.strip(), "--version"], capture_output=True, text=True, check=True)
    assert again.stdout.startswith(f"Python {version}.")
    words = ["make", "--dry-run", "--always-make", f"PYTHON={real}", ".venv/bin/python"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"{real} -m venv .venv" in shown
