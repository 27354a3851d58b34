"""A reference FastMask in plain float64 NumPy, for one unpadded image, with every window built.

Written from docs/network.md; shares only the names of the weights with the package.
"""

import math

import numpy as np
from flax import traverse_util

EPSILON = 1e-5
MEAN = {"caffe": (123.68, 116.779, 103.939), "torchvision": (123.675, 116.28, 103.53)}
DEVIATION = {"caffe": (1, 1, 1), "torchvision": (58.395, 57.12, 57.375)}


def random_variables(module, *arguments, seed=0, **keywords):
    """Returns random variables of a linen module, without compiling, so that every array matters."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **keywords))

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            value = rng.normal(size=leaf.shape) * math.sqrt(1.5 / math.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            value = rng.uniform(0.7, 1.4, leaf.shape)
        elif name == "weight":
            value = np.zeros(leaf.shape)
        else:
            value = rng.normal(size=leaf.shape) * 0.2
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def weights_of(variables):
    """Merges parameters and stored statistics into one nested dict of float64 arrays."""
    together = {}
    for collection in variables.values():
        for path, value in traverse_util.flatten_dict(collection).items():
            together[path] = np.asarray(value, np.float64)
    return traverse_util.unflatten_dict(together)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv(x, w, step=1, pad=0):
    """Convolves [h, w, C] to [h2, w2, F], with `pad` zeros on every side and floor division."""
    kernel = w["kernel"] if w["kernel"].ndim == 4 else w["kernel"][None, None]
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    side = kernel.shape[0]
    rows, columns = (x.shape[0] - side) // step + 1, (x.shape[1] - side) // step + 1
    y = np.zeros((rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            y[i, j] = np.tensordot(x[i * step : i * step + side, j * step : j * step + side], kernel, 3)
    return y + w.get("bias", 0)


def norm(x, w):
    return (x - w["mean"]) / np.sqrt(w["var"] + EPSILON) * w["scale"] + w["bias"]


def pool(x, side, step, pad, ceiling, reduce):
    """Pools over the existing cells of each window."""
    round_ = math.ceil if ceiling else math.floor
    rows, columns = (round_((n + 2 * pad - side) / step) + 1 for n in x.shape[:2])
    y = np.empty((rows, columns, x.shape[2]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * step - pad, j * step - pad
            y[i, j] = reduce(x[max(top, 0) : top + side, max(left, 0) : left + side], axis=(0, 1))
    return y


def bottleneck(x, w, step, flavor):
    early, late = (step, 1) if flavor == "caffe" else (1, step)
    y = relu(norm(conv(x, w["conv1"], early), w["norm1"]))
    y = relu(norm(conv(y, w["conv2"], late, pad=1), w["norm2"]))
    y = norm(conv(y, w["conv3"]), w["norm3"])
    if "project" in w:
        x = norm(conv(x, w["project"], step), w["project_norm"])
    return relu(x + y)


def body(w, image, flavor="caffe", depths=(1, 1, 1), stream_strides=(2, 3), middle_stride=2, fine=False):
    """Computes the map of every stream from [H, W, 3]; with `fine`, also that of stage 3."""
    x = (image.astype(np.float64) - MEAN[flavor]) / DEVIATION[flavor]
    x = relu(norm(conv(x, w["stem"], 2, pad=3), w["stem_norm"]))
    x = pool(x, 3, 2, 0, True, np.max) if flavor == "caffe" else pool(x, 3, 2, 1, False, np.max)

    def stage(x, number, step):
        for n in range(depths[number - 2]):
            x = bottleneck(x, w[f"stage{number}_block{n + 1}"], step if n == 0 else 1, flavor)
        return x

    x = stage(stage(x, 2, 1), 3, middle_stride)
    return [x] * fine + [stage(x, 4, step) for step in stream_strides]


def halve(x):
    return pool(x, 2, 2, 0, True, np.mean)


def neck(w, x, kind="residual"):
    if kind == "average":
        return halve(x)
    if kind == "max":
        return pool(x, 2, 2, 0, True, np.max)
    y = halve(conv(relu(conv(x, w["conv1"], pad=1)), w["conv2"]))
    return relu(halve(x) + y) if kind == "residual" else relu(y)


def windows_of(level):
    """[h, w, C] → [h + 1, w + 1, 10, 10, C]: window (i, j) holds cells i - 5 ... i + 4, j - 5 ... j + 4, else zeros."""
    h, w, channels = level.shape
    out = np.zeros((h + 1, w + 1, 10, 10, channels), level.dtype)
    for i in range(h + 1):
        for j in range(w + 1):
            for r in range(10):
                for c in range(10):
                    y, x = i - 5 + r, j - 5 + c
                    if 0 <= y < h and 0 <= x < w:
                        out[i, j, r, c] = level[y, x]
    return out


def dense(x, w):
    """A fully connected layer; over windows its kernel is (10, 10, C, F), flattened in that order."""
    kernel = w["kernel"].reshape(-1, w["kernel"].shape[-1])
    return x.reshape(-1, kernel.shape[0]) @ kernel + w.get("bias", 0)


def objectness(w, windows):
    """[K, 10, 10, C] → [K] logits."""
    return dense(relu(dense(relu(dense(windows, w["fc1"])), w["fc2"])), w["score"])[:, 0]


def detail(w, window):
    """The branch of 3x3 convolutions: [10, 10, C] → [40, 40] logits; a cell has 4 × 4 of them."""
    y = relu(conv(window, w["detail_reduce"]))
    for n in (1, 2):
        y = relu(conv(y, w[f"detail_conv{n}"], pad=1))
    y = conv(y, w["detail_logits"])
    return np.array([[y[r // 4, c // 4, r % 4 * 4 + c % 4] for c in range(40)] for r in range(40)])


def mask(w, windows, kind="attentional"):
    """[K, 10, 10, C] → ([K, 40, 40], [K, 10, 10]) logits."""
    attention = np.zeros(windows.shape[:3])
    if kind == "attentional":
        attention = dense(windows, w["attention"]).reshape(windows.shape[:3])
        windows = windows * sigmoid(attention)[..., None]
    logits = dense(norm(dense(windows, w["fc1"]), w["norm"]), w["fc2"]).reshape(-1, 40, 40)
    if "detail_reduce" in w:
        logits += np.array([detail(w, window) for window in windows])
    return logits, attention


def pyramid(w, streams, strides, kind="residual"):
    """Returns the features of the levels, in the order of `strides`, from {stride: map} of the body's streams."""
    maps = {}
    for stride, x in streams.items():
        while stride <= max(strides):
            maps[stride] = x
            x, stride = neck(w.get("neck"), x, kind), 2 * stride
    return [maps[s] for s in strides]


def level_features(w, image, strides, streams=(16, 24), kind="residual", **body_options):
    """Returns the features of the levels, in the order of `strides`; level 8 is the output of stage 3."""
    steps = tuple(s // 8 for s in streams)
    given = body(w["body"], image, stream_strides=steps, fine=8 in strides, **body_options)
    fine = [given.pop(0)] if 8 in strides else []
    others = [s for s in strides if s != 8]
    return fine + pyramid(w, dict(zip(streams, given, strict=True)), others, kind)


def level_maps(w, image, strides, **options):
    """Maps of the levels, in the order of `strides`."""
    features = level_features(w, image, strides, **options)
    return [conv(x, w["lateral_fine" if s == 8 else "lateral"]) for s, x in zip(strides, features, strict=True)]


def objectness_attention(w, features, strides):
    """Probability of "object" for each window of each level: [h + 1, w + 1] arrays."""
    values = []
    for stride, x in zip(strides, features, strict=True):
        hidden = relu(conv(x, w[f"level{stride}_conv1"], pad=1))
        both = np.exp(conv(hidden, w[f"level{stride}_conv2"], pad=2))
        values.append(both[..., 1] / both.sum(-1))
    return values


def all_windows(levels):
    """Every window of every level, level by level, row by row: [N, 10, 10, C]."""
    return np.concatenate([windows_of(x).reshape(-1, 10, 10, x.shape[2]) for x in levels])
