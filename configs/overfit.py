"""The full ResNet-50 network from scratch on four COCO images: proves labels, geometry and pasting on real data.

    python benchmarks/overfit.py --annotations instances.json --images FOLDER --workdir runs/overfit

The script picks the images, trains on them with this config and evaluates on them. Cost: 1,500 steps of about a second
on two CPU cores. Result: segment AR@100 .605 over medium and large objects (docs/results.md).
"""

from ml_collections import ConfigDict

from fastmask_jax.configs import coco


def get_config(variant: str = "") -> ConfigDict:
    """Returns the paper's network on small images of one scale, with a learning rate for random initial weights."""
    config = coco.get_config(variant)

    config.model.dropout = 0.0
    config.model.norm_decay = 0.98

    config.data.long_edges = (512, 512)
    config.data.buckets = ((384, 512),)
    config.data.workers = 1

    # The loss is a mean over 25,600 pixels, each with a small gradient: with weight 1, masks need ten times the steps.
    config.losses.mask = 20.0

    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_images = 40
    config.optimizer.clip_norm = 20.0
    config.optimizer.weight_decay = 0.0

    config.train.images = 1_500
    config.train.norm_calibration_images = 4
    config.train.log_every = 20
    config.train.checkpoint_every = 200
    config.train.keep_checkpoints = 1
    config.train.picture_every = 500

    config.evaluation.long_edges = (512,)
    config.evaluation.buckets = config.data.buckets
    return config
