"""Compares the bundled network `shapes` in float32 with a plain float64 network, on one photograph.

PYTHONPATH=. python benchmarks/precision.py --side 192

The float64 network is tests/plain_network.py, which shares only the names of the weights with the package. Needs
scikit-image for the photograph.
"""

import argparse

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import skimage

import fastmask_jax
from fastmask_jax.geometry import all_windows
from fastmask_jax.weights.sources import config_of, load_trained
from tests import plain_network as plain

TOP = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=192, help="of the photograph, in pixels")
    side = parser.parse_args().side
    settings = config_of("shapes")
    body, strides = settings.model.body, tuple(settings.model.strides)
    model, variables, _ = load_trained("shapes", settings.model.to_dict())
    image = cv2.resize(skimage.data.astronaut(), (side, side), interpolation=cv2.INTER_AREA)

    w = plain.weights_of(variables)
    streams = plain.body(
        w["body"], image, body.flavor, body.depths, tuple(body.stream_strides), middle_stride=body.middle_stride
    )
    maps = {}
    for stride, x in zip(strides, streams, strict=False):  # the first levels are those of the streams
        while stride <= max(strides):
            maps[stride] = plain.conv(x, w["lateral"])
            x, stride = plain.neck(w.get("neck"), x, settings.model.neck), 2 * stride
    windows = plain.norm(plain.all_windows([maps[stride] for stride in strides]), w["window_norm"])
    scores = plain.sigmoid(plain.objectness(w["objectness"], windows))

    names = all_windows(side, side, strides).tolist()
    place = {tuple(name): n for n, name in enumerate(names)}
    run = jax.jit(lambda v, x, size: model.apply(v, x, size, len(names), method="propose"))
    found = run(variables, jnp.asarray(image, jnp.float32)[None], jnp.array([[side, side]]))
    order = np.array([place[tuple(name)] for name in np.asarray(found.windows[0]).tolist()])
    masks, _ = plain.mask(w["mask"], windows[order[:TOP]], settings.model.head)

    wrong = np.abs(np.asarray(found.scores[0], np.float64) - scores[order])
    logits = np.abs(np.asarray(found.mask_logits[0, :TOP], np.float64) - masks)
    threshold = np.log(settings.evaluation.mask_threshold / (1 - settings.evaluation.mask_threshold))
    flipped = (np.asarray(found.mask_logits[0, :TOP]) > threshold) != (masks > threshold)
    same = len(set(order[:TOP].tolist()) & set(np.argsort(-scores, kind="stable")[:TOP].tolist()))
    print(f"{fastmask_jax.__version__}, jax {jax.__version__}, {jax.devices()[0].device_kind}: {len(names)} windows")
    print(f"scores: largest difference {wrong.max():.1e}, mean {wrong.mean():.1e}")
    print(f"mask logits of the top {TOP}: largest difference {logits.max():.1e}, mean {logits.mean():.1e}")
    print(f"mask cells of the top {TOP} on the other side of the threshold: {flipped.sum()} of {flipped.size}")
    print(f"windows in both top {TOP}: {same}")


if __name__ == "__main__":
    main()
