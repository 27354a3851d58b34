"""Files that are named, not given: "SCHEME:NAME" → a file on this disk. A scheme is a row of FETCHERS."""

from collections.abc import Callable
from pathlib import Path

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
        raise ValueError(f"hf:{name} is fetched by huggingface_hub: pip install huggingface_hub") from None
    repository, _, revision = name.partition("@")
    huggingface_hub.logging.set_verbosity_error()  # its retries would be told one by one
    where = {"repo_id": repository, "filename": _HUB_FILE, "revision": revision or None}
    try:
        try:
            return Path(huggingface_hub.hf_hub_download(**where, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(huggingface_hub.hf_hub_download(**where, etag_timeout=_HUB_TIMEOUT))
    except HFValidationError as error:
        raise ValueError(f"hf:{name}: give hf:OWNER/REPOSITORY[@REVISION], as in hf:timm/resnet50.tv_in1k") from error
    except (OSError, HfHubHTTPError) as error:
        url = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{_HUB_FILE}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"hf:{name} is not in the cache and cannot be downloaded ({reason}): "
            f"where there is a network, get {url}, and give the path of that file to --weights"
        ) from None


FETCHERS: dict[str, Callable[[str], Path]] = {"hf": from_hub}
