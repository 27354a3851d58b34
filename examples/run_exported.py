"""An image's proposals by a network of export.py --format jax: python run_exported.py net.npz photo.jpg OUT

Needs jax, flatbuffers, numpy, opencv-python. Prints the scores; OUT/0.png, OUT/1.png ... are the ten best masks.
"""

import json
import os
import sys

import cv2
import jax.export
import numpy as np

network, photo, out = sys.argv[1:]
with np.load(network) as file:
    weights = dict(file)
about = json.loads(str(weights.pop("description")))
function = jax.export.deserialize(bytearray(weights.pop("function")))

pixels = cv2.imread(photo, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[:, :, ::-1].astype(np.float32)
(H, W), (rows, columns), unit = pixels.shape[:2], about["padded_size"], about["side_multiple"]
h, w = (max(side * about["long_edge"] // max(H, W) // unit, 1) * unit for side in (H, W))
if h > rows or w > columns:
    sys.exit(f"{photo}: {h}x{w} when resized, larger than the network's {rows}x{columns}")
image = np.zeros((about["batch"] or 1, rows, columns, 3), np.float32)
image[0, :h, :w] = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR)
size = np.full((len(image), 2), (h, w), np.int32)
scores, windows, masks = (np.asarray(array[0]) for array in jax.jit(function.call)(weights, image, size))

os.makedirs(out, exist_ok=True)
for rank in range(min(10, (scores >= 0).sum())):  # a score of -1 means that there are fewer windows
    level, center = windows[rank, 0], windows[rank, 1:]
    edges = (center + np.array([[-5], [5]])) * about["strides"][level] * np.array([H / h, W / w])
    (y1, x1), (y2, x2) = np.rint(edges).astype(int)  # of the window, in the image's own pixels
    mask = cv2.resize(masks[rank], (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR) >= about["mask_threshold"]
    top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, H), min(x2, W)
    canvas = np.zeros((H, W), np.uint8)
    canvas[top:bottom, left:right] = mask[top - y1 : bottom - y1, left - x1 : right - x1] * 255
    cv2.imwrite(f"{out}/{rank}.png", canvas)
    print(f"{rank}.png  score {scores[rank]:.4f}  {int(canvas.astype(bool).sum())} pixels")
