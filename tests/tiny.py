"""A network, a config and a dataset that are small enough for whole runs of train.py and evaluate.py in tests."""

import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from fastmask_jax.configuration import load_config
from fastmask_jax.data.labels import LabelSpec
from fastmask_jax.data.pipeline import train_batches
from fastmask_jax.data.prepare import prepare_shapes
from fastmask_jax.data.shapes.dataset import ShapesSpec
from fastmask_jax.training.loop import training_data

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "shapes.py")
TRAIN_IMAGES, VAL_IMAGES = 6, 4

_NETWORK = {
    "model.body.width": 4,
    "model.body.depths": (1, 1, 1),
    "model.strides": (8, 12),
    "model.channels": 4,
    "model.neck_hidden": 4,
    "model.mask_width": 8,
    "model.objectness_widths": (8, 8),
    "data.long_edges": (96, 96),
    "data.buckets": ((96, 96),),
    "data.workers": 0,
    "labels.score_positives": 4,
    "labels.score_negatives": 4,
    "labels.mask_positives": 4,
    "optimizer.reference_batch": 2,
    "optimizer.warmup_images": 4,
    "train.batch_size": 2,
    "train.images": 12,
    "train.norm_calibration_images": 2,
    "train.log_every": 2,
    "train.checkpoint_every": 0,
    "train.picture_every": 0,
    "evaluation.long_edges": (96,),
    "evaluation.buckets": ((96, 96),),
    "evaluation.batch_size": 1,
    "evaluation.proposals": 20,
}


@cache
def dataset(base: Path) -> Path:
    """Draws shapes of 96x96 and 72x96 pixels, with their records, if they are not there yet."""
    if (base / "shapes").exists():
        return base / "shapes"
    spec = ShapesSpec(image_sizes=((96, 96), (72, 96)), objects=(2, 4), side=(30.0, 80.0), small_share=0.0)
    prepare_shapes(base / "shapes", train=TRAIN_IMAGES, val=VAL_IMAGES, seed=0, workers=0, spec=spec)
    return base / "shapes"


def settings(data: Path, **changed):
    """Returns keys and values of the tiny config; `changed` has double underscores instead of dots."""
    return {
        **_NETWORK,
        "data.records": str(data / "records" / "train"),
        "evaluation.annotations": str(data / "annotations" / "instances_val.json"),
        "evaluation.images": str(data / "images"),
        **{key.replace("__", "."): value for key, value in changed.items()},
    }


def overrides(data: Path, **changed) -> list[str]:
    """Returns the tiny config as command-line overrides, to follow `--config CONFIG`."""
    return [f"--config.{key}={value}" for key, value in settings(data, **changed).items()]


def config(data: Path, **changed):
    """Returns the tiny config."""
    return load_config(CONFIG, overrides(data, **changed))


def label_spec(**changed) -> LabelSpec:
    """Returns the paper's numbers (docs/network.md §2), except for `changed`."""
    paper = {"fit_low": 0.42, "fit_high": 0.68, "center": 0.2}
    return LabelSpec(**paper | {"score_positives": 32, "score_negatives": 32, "mask_positives": 64} | changed)


def batch(settings, images: int):
    """Returns the first training batch, of `images` images, for one process."""
    source, spec, plan = training_data(settings, images)
    batches = train_batches(source, spec, plan, 0, workers=0, seed=settings.seed)
    first = next(batches)
    batches.close()
    return first


_listening: dict[str, list[list[str]]] = {}


def _listen(event: str, *_: float, **__: str) -> None:
    for seen in _listening.get(event, []):
        seen.append(event)


@contextmanager
def events(name: str):
    """Yields a list that receives an entry for every event of that name that JAX reports.

    There is one listener for all events, because JAX before 0.8 cannot remove listeners.
    """
    if not _listening:
        jax.monitoring.register_event_listener(_listen)
        jax.monitoring.register_event_duration_secs_listener(_listen)
    seen: list[str] = []
    _listening.setdefault(name, []).append(seen)
    try:
        yield seen
    finally:
        _listening[name] = [other for other in _listening[name] if other is not seen]


def compilations():
    """Yields a list that receives an entry for every program that XLA compiles."""
    return events("/jax/core/compile/backend_compile_duration")


@contextmanager
def compilations_kept(folder: Path):
    """Caches compiled programs in a folder, so that several runs, in this process and others, compile them once."""
    before = {name: getattr(jax.config, name) for name in _KEPT}
    for name, value in _KEPT.items():
        jax.config.update(name, str(folder) if value is None else value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


_KEPT = {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


def environment(folder: Path, devices: int = 1) -> dict[str, str]:
    """Returns the environment of a command started by a test, with simulated devices and a compilation cache."""
    kept = {name.upper(): str(folder) if value is None else str(value) for name, value in _KEPT.items()}
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"  # compiles faster
    return os.environ | kept | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
