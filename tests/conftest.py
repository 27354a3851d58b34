"""Configures JAX for the tests: on the CPU unless JAX_PLATFORMS is set, two simulated devices, no disk cache.

JAX_PLATFORMS=cuda pytest      uses the accelerator; commands started by tests stay on the CPU, because a process takes
                               the whole TPU, or most of a GPU's memory
XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest      uses eight simulated devices
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=2".strip()

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# No deadline, because compilation is slow; derandomized, so that results are reproducible.
settings.register_profile("fastmask", deadline=None, derandomize=True)
settings.load_profile("fastmask")


@pytest.fixture(scope="session")
def tiny_network():
    """(network, variables): FastMask with few channels, strides 16, 24, 32 and 48, and random weights.

    Its norms contain the statistics of an image, so that values are of order one. The package is imported here, after
    pytest has installed the run-time shape checks.
    """
    import jax
    import jax.numpy as jnp

    from fastmask_jax.models.fastmask import FastMask
    from fastmask_jax.models.resnet import ResNet
    from tests.plain_network import random_variables

    network = FastMask(
        ResNet(width=4, depths=(1, 1, 1)),
        strides=(16, 24, 32, 48),
        channels=6,
        neck_hidden=8,
        mask_width=12,
        objectness_widths=(16, 24),
    )
    image = jax.random.uniform(jax.random.key(0), (1, 96, 128, 3), maxval=255.0)
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    arguments = image, jnp.array([[96, 128]]), windows, windows
    variables = random_variables(network, *arguments)
    measure = jax.jit(lambda v: network.apply(v, *arguments, train=True, mutable=["frozen_stats", "batch_stats"])[1])
    variables |= measure(variables)
    variables["batch_stats"]["window_norm"]["weight"] = jnp.zeros(())  # as before training
    return network, variables


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page of demo.py, with bright squares for a network (see browser_page.serving)."""
    from tests.browser_page import serving

    with serving(tmp_path_factory.mktemp("gradio")) as page:
        yield page


@pytest.fixture
def photo(tmp_path):
    """Path of a picture of three bright squares, for the page."""
    from PIL import Image

    from tests.bright_generator import picture
    from tests.browser_page import SQUARES, H, W

    path = tmp_path / "squares_42.png"
    Image.fromarray(picture((H, W), **SQUARES)).save(path)
    return path
