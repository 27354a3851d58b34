"""A reference EfficientNet-Lite body in plain float64 NumPy, for one unpadded image."""

import numpy as np

# kernel, stride, expansion, blocks, channels of Lite0's stages, from the table of the paper for width 1.0
STAGES = [(3, 1, 1, 1, 16), (3, 2, 6, 2, 24), (5, 2, 6, 2, 40), (3, 2, 6, 3, 80), (5, 1, 6, 3, 112)]


def norm(x, w):
    return (x - w["mean"]) / np.sqrt(w["var"] + 1e-3) * w["scale"] + w["bias"]


def window(x, k, step, begin):
    """Returns the k x k input cells of every output cell: [rows, columns, k, k, C]."""
    rows, columns = (-(-side // step) for side in x.shape[:2])
    x = np.pad(x, ((begin, k + step), (begin, k + step), (0, 0)))
    cells = [[x[i * step : i * step + k, j * step : j * step + k] for j in range(columns)] for i in range(rows)]
    return np.array(cells)


def body(w, image, stream_step, depths):
    """Computes the map of one stream from [H, W, 3], block by block; `depths` are the blocks of each stage."""

    def activated(x, layer):
        return np.clip(norm(x, layer), 0, 6)

    def block(x, stage, n, k, step, begin):
        b = w[f"stage{stage}_block{n}"]
        y = activated(x @ b["expand"]["kernel"], b["expand_norm"]) if stage > 1 else x
        y = np.einsum("rcijx,ijx->rcx", window(y, k, step, begin), b["depthwise"]["kernel"])
        y = activated(y, b["depthwise_norm"])
        y = norm(y @ b["project"]["kernel"], b["project_norm"])
        return x + y if y.shape == x.shape and step == 1 else y

    x = (image.astype(np.float64) - 127) / 128
    x = activated(np.einsum("rcijx,ijxf->rcf", window(x, 3, 2, 0), w["stem"]["kernel"]), w["stem_norm"])
    # TensorFlow starts a 3x3 of stride 2 at the map's first cell and a 5x5 one cell before; stage 4 is centered.
    begins = {1: 1, 2: 0, 3: 1, 4: {2: 1, 3: 0}[stream_step], 5: 2}
    for stage, (k, step, _, _, _) in enumerate(STAGES, 1):
        step = stream_step if stage == 4 else step
        for n in range(depths[stage - 1]):
            x = block(x, stage, n + 1, k, step if n == 0 else 1, begins[stage] if n == 0 else k // 2)
    return activated(x @ w["last"]["kernel"], w["last_norm"])
