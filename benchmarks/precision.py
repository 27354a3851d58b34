"""Compares the bundled networks in float32 with plain float64 NumPy, on a photograph.

    PYTHONPATH=. python benchmarks/precision.py --networks coco_few shapes --side 320

The float64 networks are tests/plain_network.py and tests/plain_efficientnet.py, which build every window and share only
the names of the weights with the package. The float32 network is the one that proposes, with its transforms. Needs
scikit-image for the photograph.
"""

import argparse

import cv2
import jax
import numpy as np
import skimage
from ml_collections import ConfigDict

import fastmask_jax
from fastmask_jax.data.batches import InferenceBatch
from fastmask_jax.geometry import all_windows
from fastmask_jax.inference.device_model import DeviceModel
from fastmask_jax.weights.sources import config_of, load_trained
from tests import plain_efficientnet
from tests import plain_network as plain

TOP = 100  # windows whose masks are compared


def streams(w: dict, model: ConfigDict, image: np.ndarray) -> dict[int, np.ndarray]:
    """Returns {stride: map} of the body's streams, in float64."""
    body, steps = model.body, tuple(model.body.stream_strides)
    if body.kind == "efficientnet_lite":
        return {8 * step: plain_efficientnet.body(w["body"], image, step, body.depths) for step in steps}
    maps = plain.body(w["body"], image, body.flavor, body.depths, steps, middle_stride=body.middle_stride)
    return {4 * body.middle_stride * step: x for step, x in zip(steps, maps, strict=True)}


def compare(name: str, side: int) -> None:
    """Prints the rows of a network."""
    settings = config_of(name)
    strides = tuple(settings.model.strides)
    model, variables, _ = load_trained(name, settings.model.to_dict())
    image = cv2.resize(skimage.data.astronaut(), (side, side), interpolation=cv2.INTER_AREA)

    w = plain.weights_of(variables)
    levels = plain.pyramid(w, streams(w, settings.model, image), strides, settings.model.neck)
    windows = plain.all_windows([plain.conv(x, w["lateral"]) for x in levels])
    windows = plain.norm(windows, w["window_norm"])
    scores = plain.sigmoid(plain.objectness(w["objectness"], windows))

    names = all_windows(side, side, strides).tolist()
    run = DeviceModel(model, variables, print, "float32")
    found = run(InferenceBatch(image[None].astype(np.float32), np.array([[side, side]], np.int32)), len(names))
    place = {tuple(window): n for n, window in enumerate(names)}
    order = np.array([place[tuple(window)] for window in np.asarray(found.windows[0]).tolist()])
    masks, _ = plain.mask(w["mask"], windows[order[:TOP]], settings.model.head)

    wrong = np.abs(np.asarray(found.scores[0], np.float64) - scores[order])
    logits = np.asarray(found.mask_logits[0, :TOP], np.float64)
    threshold = np.log(settings.evaluation.mask_threshold / (1 - settings.evaluation.mask_threshold))
    flipped = np.count_nonzero((logits > threshold) != (masks > threshold))
    best = np.argsort(-scores, kind="stable")[:TOP]
    print(f"{name}: {len(names)} windows of {side} x {side} pixels, scores {scores.min():.1e} to {scores.max():.3f}")
    print(f"  scores: largest difference {wrong.max():.1e}, mean {wrong.mean():.1e}")
    print(f"  mask logits of the best {TOP}: range {np.abs(masks).max():.1f}, ", end="")
    print(f"largest difference {np.abs(logits - masks).max():.1e}, mean {np.abs(logits - masks).mean():.1e}")
    print(f"  their cells on the other side of the threshold: {flipped} of {masks.size}")
    print(f"  windows among the best {TOP} of both: {len(set(order[:TOP].tolist()) & set(best.tolist()))}")


def main() -> None:
    """Compares the networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["coco_few", "shapes"], choices=["coco_few", "shapes"])
    parser.add_argument("--side", type=int, default=320, help="of the photograph, in pixels (default: 320)")
    options = parser.parse_args()
    print(f"fastmask_jax {fastmask_jax.__version__}, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    for name in options.networks:
        compare(name, options.side)


if __name__ == "__main__":
    main()
