"""The authors' network in plain NumPy: its arrays, their wire format, and its proposals.

Uses the authors' layer names and array layouts (docs/network.md §3 and §4), with every copy of a shared layer under its
own name. Independent of the package.
"""

import math

import cv2
import numpy as np

EPSILON = 1e-5
MEAN = (123.68, 116.779, 103.939)
WIDTH, DEPTHS, CHANNELS, NECK_HIDDEN, MASK_WIDTH, OBJECTNESS = 4, (2, 1, 2), 6, 8, 12, (16, 24)
STRIDES = (16, 24, 32, 48, 64, 96, 128)
OVERRIDES = {
    "model.body.width": WIDTH,
    "model.body.depths": DEPTHS,
    "model.channels": CHANNELS,
    "model.neck_hidden": NECK_HIDDEN,
    "model.mask_width": MASK_WIDTH,
    "model.objectness_widths": OBJECTNESS,
    "evaluation.long_edges": (128,),
    "evaluation.buckets": ((96, 128), (128, 96)),
}


def command_line(**changed):
    """Returns the overrides of configs/coco.py that make a narrow network."""
    changed = {key.replace("__", "."): value for key, value in changed.items()}
    return [f"--config.{key}={value}" for key, value in {**OVERRIDES, **changed}.items()]


def neck_names(levels):
    """Yields (stride, names of the neck's two convolutions) for every step to a coarser level."""
    for stride in levels:
        if 2 * stride in levels:
            stream = "_div3" if stride % 3 == 0 else ""
            step = int(math.log2(stride / (24 if stream else 16)))
            first, second = ("conv5_4", "conv5_5") if step == 0 else (f"conv{step + 5}_1", f"conv{step + 5}_2")
            yield stride, first + stream, second + stream


def random_body(rng):
    """Returns random layers of the body as {name: [arrays]}, float32."""
    layers = {"conv1": [np.float32(0.02) * kernel(rng, WIDTH, 3, 7, 7), small(rng, WIDTH)]}
    norm(rng, layers, "bn_conv1", "scale_conv1", WIDTH)
    channels = WIDTH
    for stage, depth in zip((2, 3, 4), DEPTHS, strict=True):
        width = WIDTH * 2 ** (stage - 2)
        for n in range(depth):
            block = f"{stage}{'abcdef'[n]}_branch"
            shapes = {"2a": (width, channels, 1, 1), "2b": (width, width, 3, 3), "2c": (4 * width, width, 1, 1)}
            if n == 0:
                shapes["1"] = (4 * width, channels, 1, 1)
            for branch, shape in shapes.items():
                layers[f"res{block}{branch}"] = [kernel(rng, *shape)]
                norm(rng, layers, f"bn{block}{branch}", f"scale{block}{branch}", shape[0])
            channels = 4 * width
    return layers


def random_network(rng, levels=STRIDES):
    """Returns random layers of the two-stream network, with every copy of shared layers."""
    layers = random_body(rng)
    for name in [name for name in layers if name.lstrip("resbncal").startswith("4")]:
        layers[f"{name}_div3"] = layers[name]
    out = 16 * WIDTH
    neck = (
        [kernel(rng, NECK_HIDDEN, out, 3, 3), small(rng, NECK_HIDDEN)],
        [
            kernel(rng, out, NECK_HIDDEN, 1, 1),
            small(rng, out),
        ],
    )
    for _, first, second in neck_names(levels):
        layers[first], layers[second] = neck
    reduce = [kernel(rng, CHANNELS, out, 1, 1), small(rng, CHANNELS)]
    for level in levels:
        layers[f"conv_feat_1_{level}s"] = reduce
    norm(rng, layers, "sample_bn", "sample_scale", CHANNELS)
    for name, shape, gain in (
        ("cls_1", (OBJECTNESS[0], CHANNELS * 100), 2),
        ("cls_2", (OBJECTNESS[1], OBJECTNESS[0]), 2),
        ("obj_score", (1, OBJECTNESS[1]), 0.3),
        ("att", (100, CHANNELS * 100), 2),
        ("seg_1", (MASK_WIDTH, CHANNELS * 100), 2),
        ("seg_2", (1600, MASK_WIDTH), 3),
    ):
        layers[name] = [np.float32(gain) * kernel(rng, *shape), small(rng, shape[0])]
    del layers["seg_1"][1]
    norm(rng, layers, "seg_1_bn", "seg_1_scale", MASK_WIDTH)
    along = 1 - np.abs(np.arange(8) - 3.5) / 4
    layers["upscore"] = [np.outer(along, along)[None, None].astype(np.float32)]
    return layers


def kernel(rng, *shape):
    return (rng.normal(size=shape) * math.sqrt(1.5 / math.prod(shape[1:]))).astype(np.float32)


def small(rng, count):
    return (rng.normal(size=count) * 0.2).astype(np.float32)


def norm(rng, layers, statistics, scale, count):
    factor = rng.uniform(0.5, 900)
    stored = small(rng, count) * factor, rng.uniform(0.7, 1.4, count) * factor, [factor]
    layers[statistics] = [np.asarray(array, np.float32) for array in stored]
    layers[scale] = [rng.uniform(0.7, 1.4, count).astype(np.float32), small(rng, count)]


# Wire format.


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def blob(array, old=False, double=False):
    data = record(8 if double else 5, array.astype("<f8" if double else "<f4").tobytes())
    if not old:
        return record(7, record(1, b"".join(map(varint, array.shape)))) + data
    shape = (1, 1, 1, 1, *array.shape)[-4:]
    return b"".join(varint(n << 3) + varint(side) for n, side in enumerate(shape, 1)) + data


def net(layers, old=False, double=False):
    """Returns the bytes of a .caffemodel file."""
    parts = [record(1, b"narrow")]
    for name, arrays in layers.items():
        blobs = b"".join(record(6 if old else 7, blob(array, old, double)) for array in arrays)
        if old:  # bottom, top, name, type by number
            head = record(2, b"data") + record(3, name.encode()) + record(4, name.encode()) + varint(5 << 3) + varint(4)
            parts.append(record(2, head + blobs))
        else:
            parts.append(record(100, record(1, name.encode()) + record(2, b"Convolution") + blobs))
    return b"".join(parts)


# Computation of the network.


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv(x, arrays, step=1, pad=0):
    """[C, h, w] → [F, h2, w2], float64."""
    weight = arrays[0].astype(np.float64)
    side = weight.shape[2]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    views = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::step, ::step]
    y = np.einsum("chwij,fcij->fhw", views, weight, optimize=True)
    return y + arrays[1].astype(np.float64)[:, None, None] if len(arrays) > 1 else y


def normalize(x, layers, statistics, scale):
    """Over the first axis."""
    mean, variance, factor = (array.astype(np.float64) for array in layers[statistics])
    gain, shift = (array.astype(np.float64) for array in layers[scale])
    mean, variance, gain, shift = (
        array.reshape(-1, *[1] * (x.ndim - 1)) for array in (mean / factor, variance / factor, gain, shift)
    )
    return (x - mean) / np.sqrt(variance + EPSILON) * gain + shift


def pool(x, side, reduce):
    """side x side / 2 with ceiling division, over the cells that exist."""
    rows, columns = (math.ceil((n - side) / 2) + 1 for n in x.shape[1:])
    return np.array(
        [
            [reduce(x[:, 2 * i : 2 * i + side, 2 * j : 2 * j + side], axis=(1, 2)) for j in range(columns)]
            for i in range(rows)
        ]
    ).transpose(2, 0, 1)


def stage(x, layers, number, step, stream=""):
    for n in range(DEPTHS[number - 2]):
        block = f"{number}{'abcdef'[n]}_branch"

        def layer(x, branch, step=1, pad=0, block=block):
            y = conv(x, layers[f"res{block}{branch}{stream}"], step, pad)
            return normalize(y, layers, f"bn{block}{branch}{stream}", f"scale{block}{branch}{stream}")

        first = step if n == 0 else 1
        y = layer(relu(layer(relu(layer(x, "2a", first)), "2b", pad=1)), "2c")
        x = relu(y + (layer(x, "1", first) if n == 0 else x))
    return x


def streams(image, layers):
    """[H, W, 3] → the maps at strides 16 and 24; the second under the names of its own copies."""
    x = (image.astype(np.float64) - MEAN).transpose(2, 0, 1)
    x = relu(normalize(conv(x, layers["conv1"], 2, 3), layers, "bn_conv1", "scale_conv1"))
    x = stage(stage(pool(x, 3, np.max), layers, 2, 1), layers, 3, 2)
    return {16: stage(x, layers, 4, 2), 24: stage(x, layers, 4, 3, "_div3")}


def level_maps(image, layers, levels):
    maps = streams(image, layers)
    for stride, first, second in neck_names(levels):
        x = maps[stride]
        y = conv(relu(conv(x, layers[first], pad=1)), layers[second])
        maps[2 * stride] = relu(pool(x, 2, np.mean) + pool(y, 2, np.mean))
    return {stride: conv(maps[stride], layers[f"conv_feat_1_{stride}s"]) for stride in levels}


def dense(x, arrays):
    y = x.reshape(len(x), -1) @ arrays[0].astype(np.float64).T
    return y + arrays[1].astype(np.float64) if len(arrays) > 1 else y


def upscore(logits, arrays):
    """A transposed convolution, 8x8 / 4, two cells cut at each border."""
    weight = arrays[0].astype(np.float64)[0, 0]
    out = np.zeros((164, 164))
    for a in range(8):
        for b in range(8):
            out[a : a + 157 : 4, b : b + 157 : 4] += weight[a, b] * logits
    return out[2:-2, 2:-2]


def propose(image, layers, levels=STRIDES, long_edge=128):
    """Returns the proposals of an RGB image, best first: (score, mask probabilities [H, W], 0 outside the window)."""
    height, width = image.shape[:2]
    scale = long_edge / max(height, width)
    size = [math.floor(side * scale) // 4 * 4 for side in (height, width)]
    resized = cv2.resize(image.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    places, windows = [], []
    for stride, x in level_maps(resized, layers, levels).items():
        padded = np.pad(x, ((0, 0), (5, 5), (5, 5)))
        for i in range(x.shape[1] + 1):
            for j in range(x.shape[2] + 1):
                places.append((stride, i, j))
                windows.append(normalize(padded[:, i : i + 10, j : j + 10], layers, "sample_bn", "sample_scale"))
    windows = np.array(windows)  # [N, C, 10, 10]
    hidden = relu(dense(relu(dense(windows, layers["cls_1"])), layers["cls_2"]))
    scores = sigmoid(dense(hidden, layers["obj_score"]))[:, 0]
    attention = sigmoid(dense(windows, layers["att"])).reshape(-1, 1, 10, 10)
    features = dense(windows * attention, layers["seg_1"]).T
    features = normalize(features, layers, "seg_1_bn", "seg_1_scale").T
    logits = dense(features, layers["seg_2"]).reshape(-1, 40, 40)
    return [
        (scores[n], paste(sigmoid(upscore(logits[n], layers["upscore"])), places[n], size, (height, width)))
        for n in np.argsort(-scores, kind="stable")
    ]


def paste(probability, place, size, original):
    stride, i, j = place
    y1, y2 = (round((i + side) * stride * original[0] / size[0]) for side in (-5, 5))
    x1, x2 = (round((j + side) * stride * original[1] / size[1]) for side in (-5, 5))
    fine = cv2.resize(probability.astype(np.float32), (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    drawn = np.zeros(original, np.float32)
    top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, original[0]), min(x2, original[1])
    if top < bottom and left < right:
        drawn[top:bottom, left:right] = fine[top - y1 : bottom - y1, left - x1 : right - x1]
    return drawn
