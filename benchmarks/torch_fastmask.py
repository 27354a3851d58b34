"""FastMask with ResNet-50 in plain PyTorch: what somebody would write, for comparison (benchmarks/against_pytorch.py).

One image at a time, float32, layers of torch.nn.functional. It takes the variables of this project's network. Windows
are scored by a 10x10 convolution, the fastest form that PyTorch has for it; masks are resized by OpenCV and encoded by
pycocotools.

Letters: H, W sides of the image, C channels, K windows.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional

RGB_MEAN = (123.68, 116.779, 103.939)
EPSILON = 1e-5


class TorchFastMask:
    """The network of configs/coco.py with trained or random weights."""

    def __init__(self, variables: Mapping[str, Any], strides: tuple[int, ...], depths: tuple[int, ...]) -> None:
        """
        Args:
          variables: collections of the network, as NumPy arrays.
          strides: strides of the levels, in resized pixels.
          depths: blocks of stages 2, 3 and 4.
        """
        self.params = _tensors(variables["params"])
        self.stats = _tensors(variables["frozen_stats"])
        self.window_stats = _tensors(variables["batch_stats"])["window_norm"]
        self.strides, self.depths = strides, depths

    @torch.inference_mode()
    def propose(
        self, image: np.ndarray, count: int, original: tuple[int, int], threshold: float
    ) -> tuple[np.ndarray, np.ndarray, list[dict]]:
        """Returns the scores, (level, i, j) and RLE masks of the `count` best windows.

        Args:
          image: float32[H, W, 3], resized RGB, 0 to 255.
          count: K.
          original: (height, width) of the image file.
          threshold: minimum probability of a mask pixel.
        """
        levels = self._levels(torch.from_numpy(image).permute(2, 0, 1)[None])
        p, s = self.params["window_norm"], self.window_stats
        factor = p["scale"] * torch.rsqrt(s["var"] + EPSILON)
        shift = p["bias"] - s["mean"] * factor
        maps = [functional.pad(x, (5, 5, 5, 5)) * factor[:, None, None] + shift[:, None, None] for x in levels]
        logits = torch.cat([self._objectness(x).flatten() for x in maps])
        best, at = logits.topk(min(count, len(logits)))
        windows = _windows(maps)[at]
        cells = torch.stack([maps[n][0, :, i : i + 10, j : j + 10] for n, i, j in windows.tolist()])  # [K, C, 10, 10]
        masks = self._masks(cells.permute(0, 2, 3, 1))
        rles = self._paste(windows.numpy(), masks.numpy(), image.shape[:2], original, threshold)
        return best.sigmoid().numpy(), windows.numpy(), rles

    def _levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        body, stats = self.params["body"], self.stats["body"]
        x = x - torch.tensor(RGB_MEAN)[:, None, None]
        x = functional.conv2d(x, _kernel(body["stem"]), body["stem"]["bias"], stride=2, padding=3)
        x = _norm(x, body["stem_norm"], stats["stem_norm"]).relu()
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        for stage, stride in ((2, 1), (3, 2)):
            x = self._stage(x, stage, stride)
        maps = {}
        for stride in (2, 3):
            y, level = self._stage(x, 4, stride), 8 * stride
            while level <= max(self.strides):
                maps[level] = y
                y, level = self._neck(y), 2 * level
        lateral = self.params["lateral"]
        return [functional.conv2d(maps[s], _kernel(lateral), lateral["bias"]) for s in self.strides]

    def _stage(self, x: torch.Tensor, stage: int, stride: int) -> torch.Tensor:
        for n in range(self.depths[stage - 2]):
            p, s = (tree["body"][f"stage{stage}_block{n + 1}"] for tree in (self.params, self.stats))
            first = stride if n == 0 else 1
            y = _norm(functional.conv2d(x, _kernel(p["conv1"]), stride=first), p["norm1"], s["norm1"]).relu()
            y = _norm(functional.conv2d(y, _kernel(p["conv2"]), padding=1), p["norm2"], s["norm2"]).relu()
            y = _norm(functional.conv2d(y, _kernel(p["conv3"])), p["norm3"], s["norm3"])
            if n == 0:
                x = _norm(
                    functional.conv2d(x, _kernel(p["project"]), stride=first), p["project_norm"], s["project_norm"]
                )
            x = (x + y).relu()
        return x

    def _neck(self, x: torch.Tensor) -> torch.Tensor:
        p = self.params["neck"]
        y = functional.conv2d(x, _kernel(p["conv1"]), p["conv1"]["bias"], padding=1).relu()
        y = functional.conv2d(y, _kernel(p["conv2"]), p["conv2"]["bias"])
        return functional.avg_pool2d(x + y, 2, 2, ceil_mode=True, count_include_pad=False).relu()

    def _objectness(self, x: torch.Tensor) -> torch.Tensor:
        p = self.params["objectness"]
        y = functional.conv2d(x, _kernel(p["fc1"]), p["fc1"]["bias"])[0].flatten(1).T.relu()
        y = (y @ p["fc2"]["kernel"] + p["fc2"]["bias"]).relu()
        return y @ p["score"]["kernel"] + p["score"]["bias"]

    def _masks(self, cells: torch.Tensor) -> torch.Tensor:
        p, s = self.params["mask"], self.stats["mask"]
        attention = cells.flatten(1) @ p["attention"]["kernel"].flatten(0, 2) + p["attention"]["bias"]
        cells = cells * attention.sigmoid().reshape(-1, 10, 10, 1)
        y = cells.flatten(1) @ p["fc1"]["kernel"].flatten(0, 2)
        y = functional.batch_norm(
            y, s["norm"]["mean"], s["norm"]["var"], p["norm"]["scale"], p["norm"]["bias"], eps=EPSILON
        )
        y = (y @ p["fc2"]["kernel"] + p["fc2"]["bias"]).reshape(-1, 1, 40, 40)
        tent = torch.tensor([1, 3, 5, 7, 7, 5, 3, 1]) / 8
        return functional.conv_transpose2d(y, (tent[:, None] * tent)[None, None], stride=4, padding=2)[:, 0].sigmoid()

    def _paste(
        self,
        windows: np.ndarray,
        masks: np.ndarray,
        resized: tuple[int, int],
        original: tuple[int, int],
        threshold: float,
    ) -> list[dict]:
        encoded = []
        scale = np.array([original[1] / resized[1], original[0] / resized[0]] * 2)
        for (level, i, j), mask in zip(windows.tolist(), masks, strict=True):
            stride = self.strides[level]
            box = np.array([j - 5, i - 5, j + 5, i + 5]) * stride * scale
            x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
            full = np.zeros(original, np.uint8, order="F")
            left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, original[1]), min(y2, original[0])
            if left < right and top < bottom:
                whole = cv2.resize(mask, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
                full[top:bottom, left:right] = whole[top - y1 : bottom - y1, left - x1 : right - x1] >= threshold
            encoded.append(coco_mask.encode(full))
        return encoded


def _windows(maps: list[torch.Tensor]) -> torch.Tensor:
    """All windows (level, i, j) of padded maps."""
    grids = [torch.cartesian_prod(torch.arange(x.shape[2] - 9), torch.arange(x.shape[3] - 9)) for x in maps]
    return torch.cat([functional.pad(grid, (1, 0), value=n) for n, grid in enumerate(grids)])


def _kernel(layer: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return layer["oihw"]


def _norm(x: torch.Tensor, p: Mapping[str, torch.Tensor], s: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return functional.batch_norm(x, s["mean"], s["var"], p["scale"], p["bias"], eps=EPSILON)


def _tensors(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Converts arrays to tensors; a layer also gets its kernel as [F, C, rows, columns]."""
    new = {
        name: _tensors(part) if isinstance(part, Mapping) else torch.from_numpy(np.array(part))
        for name, part in tree.items()
    }
    if "kernel" in new:
        kernel = new["kernel"] if new["kernel"].ndim == 4 else new["kernel"][None, None]
        new["oihw"] = kernel.permute(3, 2, 0, 1).contiguous()
    return new
