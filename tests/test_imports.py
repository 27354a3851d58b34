"""Imports: the network and the step need no data packages, and folders import only from earlier layers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastmask_jax

PACKAGE = Path(fastmask_jax.__file__).parent
DATA_PACKAGES = ("tensorflow_datasets", "grain", "pycocotools", "array_record", "tensorboardX", "cv2", "PIL")
LAYERS = (
    "masks",
    "data",
    "models",
    "weights",
    "inference",
    "evaluation",
    "training",
    "export",
    "bulk",
    "apps",
)  # each imports from earlier ones


@pytest.mark.parametrize(
    "modules", ["training.step training.losses training.optimizer training.devices", "models.build"]
)
def test_the_step_and_the_network_want_no_data_packages(modules):
    blocked = f"import sys; sys.modules |= dict.fromkeys({DATA_PACKAGES!r}); "
    code = blocked + "; ".join(f"import fastmask_jax.{module}" for module in modules.split())
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def imported(path: Path) -> set[str]:
    """Folders of the package that a file imports from."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("fastmask_jax.")} & set(LAYERS)


def test_no_folder_imports_from_one_above_it():
    """Folders may import only from those before them in LAYERS, the order of docs/design.md."""
    for number, layer in enumerate(LAYERS):
        for path in (PACKAGE / layer).rglob("*.py"):
            above = imported(path) - set(LAYERS[: number + 1])
            assert not above, f"{path.relative_to(PACKAGE)} imports from {above}"
