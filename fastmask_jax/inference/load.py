"""From a source of weights to a generator of proposals."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from fastmask_jax.configuration import load_config, override
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.generator import ProposalGenerator, Report, to_stderr
from fastmask_jax.weights.sources import config_of, load_trained

DEFAULT = "coco_few"  # the bundled network for photographs
PUBLISHED = "coco"  # whose network the files of others are taken for
CACHE = "~/.cache/fastmask_jax"


def load(
    weights: str | os.PathLike = DEFAULT,
    *,
    config: str | os.PathLike | ConfigDict | None = None,
    overrides: Sequence[str] = (),
    compilation_cache: bool | str | os.PathLike = True,
    report: Report = to_stderr,
) -> ProposalGenerator:
    """Loads a trained network, ready to propose.

    Args:
      weights: a working directory of train.py, or any other source of docs/weights.md. Default: the bundled network for
        photographs.
      config: name of a bundled config with its variant after a colon ("coco_lite", "coco:zoom"), path of a config
        file with the same, or a config. None: the one that the network was trained with, or "coco" for files of others.
      overrides: changes of the config, as on the command line: ["evaluation.long_edges=1300"].
      compilation_cache: keep compiled programs on disk, so that the next process starts fast: True in
        $JAX_COMPILATION_CACHE_DIR, else where JAX was told to, else ~/.cache/fastmask_jax; or in a folder; False: do
        not. This is a setting of the whole process.
      report: gets a line of text when a pause needs explaining; called from another thread. Default: stderr.

    Errors:
      FileNotFoundError, ValueError: no such source, config or key, or weights that do not fit; one line.
    """
    if isinstance(overrides, str):
        raise InvalidInput(f"overrides={overrides!r}: a list of texts is wanted, [{overrides!r}]")
    settings = _config(os.fspath(weights), config, overrides)
    if compilation_cache:
        keep_compiled(None if compilation_cache is True else compilation_cache)
    model, variables, loaded = load_trained(os.fspath(weights), settings.model.to_dict())
    return ProposalGenerator(model, variables, settings, loaded=loaded, report=report)


def _config(weights: str, config: str | os.PathLike | ConfigDict | None, overrides: Sequence[str]) -> ConfigDict:
    if isinstance(config, ConfigDict):
        return override(ConfigDict(config.to_dict()), overrides)
    if config is None:
        return config_of(weights, overrides) or load_config(PUBLISHED, overrides)
    return load_config(os.fspath(config), overrides)


def keep_compiled(folder: str | os.PathLike | None = None) -> None:
    """JAX keeps what it compiles on disk: in `folder`, or where it was told to, or in ~/.cache/fastmask_jax.

    Where the last one cannot be written to, it keeps nothing.

    Errors:
      ValueError: `folder` cannot be written to; one line.
    """
    if folder is None and jax.config.jax_compilation_cache_dir is not None:
        return
    place = Path(CACHE if folder is None else folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        writable = os.access(place, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if writable:
        jax.config.update("jax_compilation_cache_dir", str(place))
    elif folder is not None:
        raise InvalidInput(f"compilation_cache={place}: not a folder that can be written to; name another, or False")
