"""A small FastMask for the drawn shapes dataset: trains in minutes on two CPU cores.

    python prepare.py shapes --out datasets/shapes
    python train.py --config configs/shapes.py --workdir runs/shapes
    python evaluate.py --config configs/shapes.py --workdir runs/shapes

`make quickstart` runs these three commands. Cost: 6 minutes of training on two CPU cores. Result: segment AR@100 .523
on the 200 held-out images (docs/results.md).
"""

from ml_collections import ConfigDict

from fastmask_jax.configs import coco


def get_config(variant: str = "") -> ConfigDict:
    """Returns the paper's settings for a small network; variants as in configs/coco.py."""
    config = coco.get_config(variant)

    config.model.body.width = 16
    config.model.body.depths = (1, 2, 2)
    config.model.body.middle_stride = 1  # strides 8 and 12: the images are small
    config.model.body.train_norms = True
    config.model.strides = (8, 12, 16, 24, 32, 48) if 3 in config.model.body.stream_strides else (8, 16, 32)
    config.model.channels = 32
    config.model.neck_hidden = 32
    config.model.mask_width = 256
    config.model.objectness_widths = (256, 256)
    config.model.norm_decay = 0.99

    config.data.records = "datasets/shapes/records/train"
    config.data.long_edges = (384, 448)  # upscales images of 320 pixels, so that small objects fit a window, too
    config.data.buckets = ((336, 448), (448, 448))  # few, because each is compiled
    config.data.workers = 1

    config.labels.mask_positives = 16  # the mask loss, over 160x160 pixels, dominates a small network's step

    config.losses.mask = 10.0  # a mean over 25,600 pixels learns slowly with weight 1

    config.optimizer.learning_rate = 0.05
    config.optimizer.reference_batch = 4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_images = 400
    config.optimizer.clip_norm = 10.0

    config.train.batch_size = 4
    config.train.images = 3_000
    config.train.log_every = 50
    config.train.checkpoint_every = 400
    config.train.picture_every = 400

    config.evaluation.annotations = "datasets/shapes/annotations/instances_val.json"
    config.evaluation.images = "datasets/shapes/images"
    config.evaluation.long_edges = (448,)
    config.evaluation.buckets = config.data.buckets
    config.evaluation.batch_size = 8
    config.evaluation.proposals = 1_000
    config.evaluation.mask_threshold = 0.4  # soft masks of short training are too wide at the published 0.2
    return config
