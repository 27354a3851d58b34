"""Loads a generator of proposals from a source of weights."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
from ml_collections import ConfigDict

from fastmask_jax.configuration import load_config, override
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.generator import ProposalGenerator, Report, to_stderr
from fastmask_jax.weights.sources import config_of, load_trained

DEFAULT = "coco_few"  # the bundled network for photographs
PUBLISHED = "coco"  # the config assumed for third-party files
CACHE = "~/.cache/fastmask_jax"


def load(
    weights: str | os.PathLike = DEFAULT,
    *,
    config: str | os.PathLike | ConfigDict | None = None,
    overrides: Sequence[str] = (),
    precision: Literal["float32", "bfloat16"] | None = None,
    compilation_cache: bool | str | os.PathLike = True,
    report: Report = to_stderr,
) -> ProposalGenerator:
    """Loads a trained network, ready to propose.

    Args:
      weights: a working directory of train.py, or any other source of docs/weights.md. Default: the bundled network for
        photographs.
      config: name of a bundled config, with an optional variant after a colon ("coco_lite", "coco:zoom"), path of a
        config file, likewise, or a config. None: the config stored with the weights, or "coco" for third-party files.
      overrides: settings as on the command line: ["evaluation.long_edges=1300"].
      precision: precision of the network's products. "bfloat16" is faster on CPUs with AMX or AVX-512 BF16, GPUs and
        TPUs; docs/performance.md states its effect on average recall. Sums and everything else stay in float32. None:
        the config's `evaluation.precision`.
      compilation_cache: cache compiled programs on disk for later processes. True: in $JAX_COMPILATION_CACHE_DIR, in
        the folder that JAX is configured with, or in ~/.cache/fastmask_jax; a path: in that folder; False: no cache.
        The setting applies to the whole process.
      report: called with a line of text, from another thread, when compilation takes long. Default: prints to stderr.

    Raises:
      FileNotFoundError, ValueError: no such source, config or key, or weights that do not fit; one line.
    """
    if isinstance(overrides, str):
        raise InvalidInput(f"overrides={overrides!r}: expected a list, [{overrides!r}]")
    if precision is not None:
        overrides = [*overrides, f"evaluation.precision={precision}"]
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
    """Enables JAX's compilation cache: in `folder`, in the folder JAX is configured with, or in ~/.cache/fastmask_jax.

    If the default folder is not writable, nothing is cached.

    Raises:
      ValueError: `folder` is not writable; one line.
    """
    if folder is None and jax.config.jax_compilation_cache_dir is not None:
        return
    place = Path(os.path.expanduser(CACHE if folder is None else folder))
    writable = False
    if place.parts[0] != "~":  # "~" remains for a user without a home, as in many containers
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            writable = os.access(place, os.W_OK | os.X_OK)
    if writable:
        jax.config.update("jax_compilation_cache_dir", str(place))
    elif folder is not None:
        raise InvalidInput(f"compilation_cache={place}: not a writable folder; choose another, or False")
