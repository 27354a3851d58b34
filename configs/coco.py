"""FastMask on COCO as published: ResNet-50 to its fourth stage, two streams, residual neck, attentional head.

Source: Hu, Lan, Jiang, Cao, Sha, "FastMask: Segment Multi-scale Object Candidates in One Shot", CVPR 2017.

    python prepare.py coco2014 --root datasets/coco
    python train.py --config configs/coco.py --workdir runs/coco
    python evaluate.py --config configs/coco.py --workdir runs/coco --limit 5000

Variants, joined with commas: `configs/coco.py:zoom,max_neck`.

    zoom                         adds level 192; resizes images to 1300 in inference
    one_stream                   only strides 16, 32, 64, 128
    torchvision                  body in torchvision's layout (docs/network.md §1)
    average_neck, max_neck, feedforward_neck
    standard_head                no attention
    bfloat16                     computes in bfloat16; parameters stay float32
    attentionmask                AttentionMask with levels 8 to 128 (docs/network.md §5): level 8 from stage 3,
                                 objectness attention for each level, its own labels, losses, rates and sizes
    attentionmask_8_192          adds level 192
    attentionmask_16_192         the same without level 8

Cost and result on COCO: not measured yet. docs/results.md lists what was measured.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from fastmask_jax.errors import InvalidInput


def get_config(variant: str = "") -> ConfigDict:
    """Returns the paper's settings, changed by the named variants."""
    config = ConfigDict()
    config.seed = 0

    config.model = ConfigDict()
    config.model.body = ConfigDict()
    config.model.body.kind = "resnet"
    config.model.body.width = 64
    config.model.body.depths = (3, 4, 6)
    config.model.body.middle_stride = 2
    config.model.body.stream_strides = (2, 3)  # strides 16 and 24
    config.model.body.flavor = "caffe"
    config.model.body.train_norms = False
    config.model.body.remat = False
    config.model.strides = (16, 24, 32, 48, 64, 96, 128)
    config.model.channels = 128
    config.model.neck = "residual"
    config.model.neck_hidden = 256
    config.model.head = "attentional"
    config.model.mask_width = 512
    config.model.mask_conv_width = 0  # channels of a convolutional branch of the mask head; 0: none
    config.model.objectness_widths = (512, 1024)
    config.model.dropout = 0.5
    config.model.objectness_attention_width = 0  # channels of each level's objectness attention; 0: none
    config.model.attended_windows = 4096  # maximum per image; only with objectness attention
    config.model.norm_decay = 0.999
    config.model.train_form = "gather"
    config.model.score_form = "auto"
    config.model.dtype = "float32"

    config.data = ConfigDict()
    config.data.records = "datasets/coco2014/train"
    config.data.long_edges = (800, 869)  # smallest and largest
    # Padded (height, width): landscape and portrait images of 3:2 and 4:3, and any other; 872 fits 869 and 870.
    config.data.buckets = ((584, 872), (656, 872), (872, 584), (872, 656), (872, 872))
    config.data.random_crop = False  # True: show a random crop of images that are too large for their bucket
    config.data.color_jitter = 0.0  # strength of color jitter
    config.data.copy_paste = 0  # maximum number of objects pasted from another image
    config.data.workers = 2
    config.data.extra = ConfigDict()  # more sets of records: name → records, weight, partly_labeled

    config.labels = ConfigDict()  # see data/labels.LabelSpec
    config.labels.fit_low = 0.42
    config.labels.fit_high = 0.68
    config.labels.center = 0.2
    config.labels.score_positives = 32
    config.labels.score_negatives = 32
    config.labels.mask_positives = 64
    config.labels.finest_fit_low = 0.0  # `fit_low` of the finest level; 0: the same
    config.labels.random_negatives = 0  # maximum number drawn from all windows, in addition to the hard negatives
    config.labels.ignore_unknown = False  # True: windows in crowds, or too large for any object, are no negatives

    config.losses = ConfigDict()
    config.losses.objectness = 1.0
    config.losses.mask = 1.0
    config.losses.attention = 1.0
    config.losses.dice = 0.0
    config.losses.score_target = "label"  # or "iou": objectness learns the IoU of the window's own mask
    config.losses.hardest_negatives = 0  # use only this many negatives, those with the highest scores; 0: all
    config.losses.focal = 0.0
    config.losses.objectness_attention = 0.25  # for each level; only with objectness attention

    config.optimizer = ConfigDict()
    config.optimizer.name = "momentum"  # or "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.reference_batch = 1
    config.optimizer.batch_scaling = "linear"
    config.optimizer.schedule = "step"
    config.optimizer.warmup_images = 0
    config.optimizer.drop_images = (500_000,)
    config.optimizer.drop_factor = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.b1 = 0.9  # for adam
    config.optimizer.weight_decay = 5e-5
    config.optimizer.clip_norm = 0.0  # 0: none
    config.optimizer.body_factor = 1.0
    config.optimizer.bias_factor = 1.0  # for biases outside the body
    config.optimizer.average_decay = 0.0  # decay of the moving average of the weights for inference; 0: none

    config.train = ConfigDict()
    config.train.batch_size = 1  # over all devices
    config.train.images = 1_000_000
    config.train.norm_calibration_images = 16  # images that set the frozen statistics of a random body; 0: none
    config.train.log_every = 50  # steps, like all below
    config.train.checkpoint_every = 2_000
    config.train.keep_checkpoints = 3
    config.train.picture_every = 10_000  # 0: none
    config.train.evaluate_every = 0  # 0: never; the best checkpoint has the highest segm/AR@100

    config.evaluation = ConfigDict()
    config.evaluation.annotations = "datasets/coco/annotations/instances_val2014.json"
    config.evaluation.images = "datasets/coco/val2014"
    config.evaluation.exif = "ignore"  # pixels as stored, as in COCO; "apply": upright by EXIF orientation
    config.evaluation.long_edges = (870,)  # test scales; proposals of several are merged
    config.evaluation.buckets = config.data.buckets  # for the largest scale; scaled for the others
    config.evaluation.batch_size = 1  # per device
    config.evaluation.proposals = 1_000
    config.evaluation.mask_threshold = 0.2
    config.evaluation.extra_thresholds = ()  # for further masks of each window, which rank lower
    config.evaluation.stability_weight = 0.0  # ranks sharp masks first; 0: rank by objectness alone
    config.evaluation.rerank_iou = 1.0  # lowers the scores of masks with a greater IoU with a better one; 1: off
    config.evaluation.tile = (
        "off"  # or the side of tiles in pixels, to also propose on tiles of larger images; or "auto"
    )
    config.evaluation.tile_overlap = 0.25  # minimum overlap of tiles in pixels; below 1: a fraction of the tile
    config.evaluation.limit = 0  # number of images, the first by sorted id; 0: all
    config.evaluation.max_pixels = 64_000_000  # of an image file; larger ones are refused before decoding
    config.evaluation.precision = "float32"  # of products; "bfloat16" is faster where the processor has it

    for name in filter(None, variant.split(",")):
        if name not in _VARIANTS:
            raise InvalidInput(f"configs/coco.py has no variant {name!r}; it has {sorted(_VARIANTS)}")
        _VARIANTS[name](config)
    return config


def _zoom(config: ConfigDict) -> None:
    config.model.strides = (*config.model.strides, 192)
    config.evaluation.long_edges = (1300,)
    config.evaluation.buckets = ((872, 1300), (976, 1300), (1300, 872), (1300, 976), (1300, 1300))


def _one_stream(config: ConfigDict) -> None:
    config.model.body.stream_strides = (2,)
    config.model.strides = tuple(s for s in config.model.strides if s % 3)


def _attentionmask(finest: int, coarsest: int) -> Callable[[ConfigDict], None]:
    """Returns the settings of AttentionMask from a finest to a coarsest level.

    Source: Wilms, Frintrop, "AttentionMask: Attentive, Efficient Object Proposal Generation Focusing on Small Objects",
    ACCV 2018.
    """

    def change(config: ConfigDict) -> None:
        doubled = {192} if 3 in config.model.body.stream_strides else set()
        levels = {8, *config.model.strides} | doubled
        config.model.strides = tuple(sorted(s for s in levels if finest <= s <= coarsest))
        config.model.objectness_attention_width = 128
        config.data.long_edges = (1000, 1000)
        config.data.buckets = ((672, 1000), (752, 1000), (1000, 672), (1000, 752), (1000, 1000))
        config.labels.fit_low, config.labels.fit_high = 0.4, 0.8
        config.labels.center = 0.25
        config.losses.objectness = 0.5
        config.losses.mask = 1.25
        config.losses.attention = 1.25
        config.losses.objectness_attention = 0.25
        config.optimizer.learning_rate = 1e-3  # for new layers: ten times the body's
        config.optimizer.body_factor = 0.1
        config.optimizer.bias_factor = 2.0
        config.optimizer.drop_images = (4_000_000,)
        config.evaluation.long_edges = (1100,)
        config.evaluation.buckets = ((736, 1100), (828, 1100), (1100, 736), (1100, 828), (1100, 1100))

    return change


def _set(section: str, key: str, value: object) -> object:
    def change(config: ConfigDict) -> None:
        config[section][key] = value

    return change


_VARIANTS = {
    "zoom": _zoom,
    "one_stream": _one_stream,
    "torchvision": lambda config: config.model.body.update(flavor="torchvision"),
    "average_neck": _set("model", "neck", "average"),
    "max_neck": _set("model", "neck", "max"),
    "feedforward_neck": _set("model", "neck", "feedforward"),
    "standard_head": _set("model", "head", "standard"),
    "bfloat16": _set("model", "dtype", "bfloat16"),
    "attentionmask": _attentionmask(8, 128),
    "attentionmask_8_192": _attentionmask(8, 192),
    "attentionmask_16_192": _attentionmask(16, 192),
}
