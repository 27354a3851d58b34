"""Reports a missing optional package in one line that says how to install it."""

import contextlib
from collections.abc import Iterator

from fastmask_jax.errors import InvalidInput

# Top-level module → (extra of pyproject.toml that installs it, requirements file of a checkout)
_TRAIN = "train", "requirements.txt"
_VIDEO = "video", "requirements-video.txt"
_LARGE = "large", "requirements-large.txt"
_DEMO = "demo", "requirements-demo.txt"
_EXPORT = "export", "requirements-export.txt"
_BULK = "bulk", "requirements-bulk.txt"
EXTRAS = {
    "array_record": _TRAIN,
    "grain": _TRAIN,
    "optax": _TRAIN,
    "orbax": _TRAIN,
    "psutil": _TRAIN,
    "tensorboardX": _TRAIN,
    "tensorflow_datasets": _TRAIN,
    "av": _VIDEO,
    "scipy": _VIDEO,
    "pyogrio": _LARGE,
    "rasterio": _LARGE,
    "shapely": _LARGE,
    "gradio": _DEMO,
    "flatbuffers": _EXPORT,
    "jax2onnx": _EXPORT,
    "onnx": _EXPORT,
    "fsspec": _BULK,
    "pyarrow": _BULK,
    "ray": _BULK,
}


@contextlib.contextmanager
def naming_the_extra(command: str) -> Iterator[None]:
    """Makes failed imports in the block raise InvalidInput, with one line that names the package and the remedy.

    Args:
      command: name of the command in the message, such as "train".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra, requirements = EXTRAS[package]
        raise InvalidInput(
            f"fastmask {command} needs {package}, which is not installed: pip install 'fastmask_jax[{extra}]', "
            f"or in a checkout pip install -r {requirements}"
        ) from error
