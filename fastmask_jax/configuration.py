"""Loads configs from the command line: a Python file, its variant, and overrides; reports errors in one line."""

import argparse
import ast
import difflib
import errno
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from ml_collections import ConfigDict

from fastmask_jax.allocator import keep_freed_memory
from fastmask_jax.config_schema import check_config
from fastmask_jax.errors import InvalidInput, MissingFile, UserError, printable, shown


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Loads a config file, or a bundled config by its name, and checks every setting (see `config_schema`).

    Args:
      spec: path of a file with a function `get_config`, or name of a bundled config; after a colon the variant:
        "configs/coco.py:zoom", "coco:zoom".
      overrides: `--config.key.subkey=value` strings; a value is parsed as a Python literal, or kept as a string.

    Raises:
      ValueError, FileNotFoundError: no such file, variant or key, a file that is no config, or a value that is not
        allowed; one line.
    """
    name, _, variant = spec.partition(":")
    path = Path(name)
    if path.is_file():
        config = _read(path, variant)
    elif name in bundled_configs():
        config = importlib.import_module(f"fastmask_jax.configs.{name}").get_config(variant)
    else:
        bundled = ", ".join(bundled_configs())
        raise MissingFile(f"config {printable(name)}: no such file, and none of the bundled configs {bundled}")
    check_config_of(f"--config {name}", config, training=True)
    return override(config, overrides, training=True)


def bundled_configs() -> list[str]:
    """Returns the names of the bundled configs."""
    names = [file.name for file in resources.files("fastmask_jax.configs").iterdir()]
    return sorted(name.removesuffix(".py") for name in names if name.endswith(".py") and not name.startswith("_"))


def override(config: ConfigDict, overrides: Sequence[str], training: bool = False) -> ConfigDict:
    """Applies `--config.key.subkey=value` overrides to a config, checks it and locks it; raises as `load_config`.

    Args:
      config: changed in place.
      overrides: see `load_config`.
      training: check all sections, not only those of inference.
    """
    for text in overrides:
        key, equals, value = text.removeprefix("--config.").partition("=")
        if not equals:
            given = printable(text.removeprefix("--config."))
            raise InvalidInput(f"--config.{given}: give a value, as in --config.{given}=VALUE")
        _set(config, key, value)
    check_config(config.to_dict(), training)
    return config.lock()


def check_config_of(source: str, config: ConfigDict, training: bool = False) -> None:
    """Checks a config (see `config_schema.check_config`); messages begin with the name of its source."""
    try:
        check_config(config.to_dict(), training)
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error}") from None


def _read(path: Path, variant: str) -> ConfigDict:
    """Runs a config file; any error in it becomes one line that names the file and the line number."""
    if path.suffix != ".py":
        raise InvalidInput(f"--config {path}: expected a Python file (.py) with a function get_config")
    module_spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None  # every .py file has a loader
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise InvalidInput(f"--config {path} has no function get_config")
        try:
            inspect.signature(get_config).bind(variant)
        except TypeError:
            raise InvalidInput(f"--config {path}: get_config takes the variant: def get_config(variant='')") from None
        config = get_config(variant)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file may be any program
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == module_spec.origin]
        where = f", line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split()) or "no message"
        raise InvalidInput(f"--config {path}{where}: {type(error).__name__}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise InvalidInput(f"--config {path}: get_config returns {shown(config)}, not an ml_collections.ConfigDict")
    return config.unlock()


def _set(config: ConfigDict, key: str, text: str) -> None:
    *sections, name = key.split(".")
    section = config
    for depth, part in enumerate([*sections, name]):
        if not isinstance(section, ConfigDict) or part not in section:
            raise InvalidInput(
                f"--config.{printable(key)}: no such key; did you mean --config.{_nearest(config, key)}?"
            )
        if depth < len(sections):
            section = section[part]
    old = section[name]
    if isinstance(old, ConfigDict):
        raise InvalidInput(f"--config.{key} is a section: set one of its keys {sorted(old)}")
    try:
        section[name] = text if isinstance(old, str) else _like(ast.literal_eval(text), old)
    except (TypeError, ValueError, SyntaxError, OverflowError, RecursionError, MemoryError):  # or nested too deeply
        raise InvalidInput(f"--config.{key}={printable(text)}: expected the type of {old!r}") from None


def _like(value: object, old: object) -> object:
    """Converts `value` to the type of `old`, tuple items to that of its first; raises TypeError if it cannot."""
    if isinstance(old, tuple):
        if len(old) == 1 and isinstance(value, int | float):
            value = (value,)  # long_edges=1300 means (1300,)
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_like(item, old[0]) if old else item for item in value)
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if type(value) is not type(old):
        raise TypeError
    return value


def _nearest(config: ConfigDict, key: str) -> str:
    (close,) = difflib.get_close_matches(key, _keys(config), n=1, cutoff=0.0)
    return close


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        keys += _keys(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [f"{prefix}{name}"]
    return keys


def parse_command_line(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """Returns parsed arguments and `--config.key=value` overrides; anything else is a parser error."""
    options, rest = parser.parse_known_args(arguments)
    for text in rest:
        if text.startswith("--config.") and "=" not in text:
            parser.error(f"{printable(text)}: give a value, as in {printable(text)}=VALUE")
        if not text.startswith("--config."):
            parser.error(f"unrecognized argument: {printable(text)}")
    return options, rest


# Errors of the machine and its disk, not bugs: the system's message names the file.
_MACHINE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
}
REPORT = "This is a bug in fastmask_jax: please report it with the traceback."


def _free_quietly(interrupt: KeyboardInterrupt) -> None:
    """Frees the objects of the interrupted frames; ignores errors of objects that were interrupted in construction."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    interrupt.__traceback__ = None
    sys.unraisablehook = hook


def run_command(command: Callable[[], int]) -> int:
    """Runs an entry point: user errors become one line on stderr and exit code 2, Ctrl-C exit code 130.

    Any other error is a bug: it is raised with its traceback, which ends with `REPORT`.
    """
    keep_freed_memory()
    try:
        return command()
    except KeyboardInterrupt as interrupt:
        _free_quietly(interrupt)
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not isinstance(error, UserError) and not (isinstance(error, OSError) and error.errno in _MACHINE):
            error.add_note(REPORT)
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
