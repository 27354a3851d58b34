"""FastMask in JAX: class-agnostic segment proposals of all sizes from one pass over one image.

import fastmask_jax

generator = fastmask_jax.load("runs/coco")
found = generator.propose("photo.jpg", count=200, nms_iou=0.8)
found.overlay().save("proposals.png")
"""

import importlib
from typing import TYPE_CHECKING

from fastmask_jax.expected_logs import drop_expected_logs

if TYPE_CHECKING:
    from fastmask_jax.inference.generator import ProposalGenerator
    from fastmask_jax.inference.load import load
    from fastmask_jax.inference.options import ProposeOptions
    from fastmask_jax.inference.proposals import Proposals

__version__ = "0.1.0"
__all__ = ["ProposalGenerator", "Proposals", "ProposeOptions", "load"]

_HOMES = {
    "Proposals": "fastmask_jax.inference.proposals",
    "ProposalGenerator": "fastmask_jax.inference.generator",
    "ProposeOptions": "fastmask_jax.inference.options",
    "load": "fastmask_jax.inference.load",
}


drop_expected_logs()


def __getattr__(name: str) -> object:
    """Imports the library's names on first access, so that `import fastmask_jax.geometry` needs no JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
