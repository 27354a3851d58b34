"""Two processes with one image each equal one process with two: the step, and the split of the data."""

import socket
import subprocess
import sys

import numpy as np

from tests import tiny

STEPS = 3
SCRIPT = """
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

data, out, address, count, index = sys.argv[1:]
count, index = int(count), int(index)
if count > 1:
    jax.distributed.initialize(address, count, index, initialization_timeout=60)

from fastmask_jax.data.pipeline import train_batches
from fastmask_jax.models.build import build_model
from fastmask_jax.training.devices import AXIS, check_batch_size, map_over_devices, replicate, split
from fastmask_jax.training.loop import training_data
from fastmask_jax.training.losses import LossSpec
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import TrainState, make_step, on_device
from tests import tiny
from tests.plain_network import random_variables

config = tiny.config(Path(data))
check_batch_size(2)
model = build_model(config.model.to_dict(), axis_name=AXIS)
optimizer, _ = build_optimizer(config.optimizer.to_dict(), 2, 12)
windows = jnp.zeros((1, 1, 3), jnp.int32)
drawn = random_variables(model.clone(axis_name=None), jnp.zeros((1, 96, 96, 3)), jnp.full((1, 2), 96), windows, windows)
state = replicate(TrainState(np.int32(0), **drawn, opt_state=optimizer.init(drawn["params"])))
step = map_over_devices(make_step(model, optimizer, LossSpec(), 0))
source, spec, plan = training_data(config, 2)
batches = train_batches(source, spec, plan, 0, process_index=index, process_count=count, workers=0, seed=0)
losses = []
for _ in range({steps}):
    state, metrics = step(state, split(on_device(next(batches))))
    losses.append(float(metrics["loss"]))  # waits: processes that queue many steps may block each other
batches.close()
leaves = {{jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}}
np.savez(out, losses=losses, **leaves)
"""


def trained(data, folder, count):
    """Returns the state of every process after the steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outs = [folder / f"{count}_{index}.npz" for index in range(count)]
    words = [sys.executable, "-c", SCRIPT.format(steps=STEPS)]
    processes = [
        subprocess.Popen(
            [*words, str(data), str(out), address, str(count), str(index)],
            cwd=tiny.ROOT,
            env=tiny.environment(folder / "compiled"),
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, out in enumerate(outs)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-2000:]
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(out)) for out in outs]


def test_two_processes_of_one_image_are_one_of_two(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    data, folder = tiny.dataset(base), tmp_path_factory.mktemp("processes")
    (want,) = trained(data, folder, 1)
    first, second = trained(data, folder, 2)
    assert len(want["losses"]) == STEPS and want[".step"] == STEPS
    for name, value in want.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        difference = np.linalg.norm(first[name].astype(np.float64) - value)
        assert difference <= 1e-5 * np.linalg.norm(value), (name, difference)
