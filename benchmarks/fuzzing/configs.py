"""Settings of any value on the command line and in config files."""

from pathlib import Path

import numpy as np

from benchmarks.fuzzing.mutation import damaged, odd_value, pick
from fastmask_jax.config_schema import SECTIONS, check_config
from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model
from tests.tiny import ROOT

_SOUND = b"""from fastmask_jax.configs import shapes


def get_config(variant=""):
    config = shapes.get_config(variant)
    config.train.batch_size = 2
    return config
"""


def config_case(folder: Path):
    keys = [f"{section}.{key}" for section, kinds in SECTIONS.items() for key in kinds]
    keys += ["seed", "model.body.kind", "model.body.width", "model.body.depths", "data.extra", "model", "model.x", ""]
    configs = ["shapes", "coco_few", *(str(ROOT / f"configs/{name}.py") for name in ("coco", "coco_lite"))]
    texts = [
        "(1,)",
        "()",
        "((96, 96),)",
        "[96]",
        "-1",
        "1e999",
        "10**9",
        "'x'",
        "None",
        "True",
        "0x10",
        "(",
        "lambda: 0",
    ]

    def case(rng: np.random.Generator) -> None:
        if rng.random() < 0.2:
            path = folder / "mine.py"
            path.write_bytes(damaged(rng, _SOUND))
            load_config(str(path))
            return
        overrides = []
        for _ in range(int(rng.integers(1, 4))):
            value = odd_value(rng) if rng.random() < 0.6 else pick(rng, texts)
            try:
                text = str(value)
            except ValueError:  # an integer of more digits than Python writes
                text = "9" * 5_000
            overrides.append(f"--config.{pick(rng, keys)}={text}")
        name = pick(rng, [*configs, "coco:zoom", "coco:none", "nowhere", f"{configs[2]}:attentionmask"])
        config = load_config(name, overrides)
        build_model(config.model.to_dict())
        check_config(config.to_dict(), training=True)

    return case
