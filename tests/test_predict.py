"""predict.py with a file in the authors' format, compared with a plain NumPy network."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.apps.command_line import predict
from tests import caffe_network
from tests.tiny import ROOT


def write_images(folder, sizes, rng):
    """Writes smooth random RGB images, losslessly compressed."""
    images = {}
    for number, (height, width) in enumerate(sizes):
        coarse = rng.uniform(0, 255, (height // 8, width // 8, 3)).astype(np.float32)
        image = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
        path = folder / f"image_{100 + number:012d}.png"
        cv2.imwrite(str(path), image[:, :, ::-1])
        images[path] = image
    return images


@pytest.mark.parametrize(
    ("variant", "levels", "old", "sizes"),
    [
        ("", caffe_network.STRIDES, False, [(75, 100), (100, 67)]),
        (":zoom", (*caffe_network.STRIDES, 192), True, [(90, 118)]),
    ],
    ids=["published network, new records", "zoom network, old records"],
)
def test_proposals_are_those_of_a_plain_network(tmp_path, capsys, variant, levels, old, sizes):
    rng = np.random.default_rng(3)
    layers = caffe_network.random_network(rng, levels)
    weights = tmp_path / "net.caffemodel"
    weights.write_bytes(caffe_network.net(layers, old=old))
    images = write_images(tmp_path, sizes, rng)

    arguments = ["--weights", str(weights), *map(str, images), "--max_proposals", "250", "--out", str(tmp_path / "out")]
    config = ["--config", str(ROOT / f"configs/coco.py{variant}"), *caffe_network.command_line()]
    assert predict.main([*arguments, *config]) == 0
    said = capsys.readouterr().err
    assert "left at initial values: nothing" in said and "unused in the file: nothing" in said

    entries = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {100 + n for n in range(len(sizes))}
    for image_id, image in enumerate(images.values(), 100):
        ours = [entry for entry in entries if entry["image_id"] == image_id]
        theirs = [
            (score, drawn) for score, drawn in caffe_network.propose(image, layers, levels) if (drawn >= 0.2).any()
        ]
        assert len(ours) == len(theirs) > 100
        np.testing.assert_allclose([entry["score"] for entry in ours], [score for score, _ in theirs], atol=1e-4)
        assert np.ptp([score for score, _ in theirs]) > 0.3  # otherwise the comparison would be weak
        for entry, (_, drawn) in zip(ours, theirs, strict=True):
            assert entry["segmentation"]["size"] == list(image.shape[:2])
            mask = coco_mask.decode(entry["segmentation"]).astype(bool)
            wrong = mask != (drawn >= 0.2)
            assert np.abs(drawn[wrong] - 0.2).max(initial=0) < 1e-4
            np.testing.assert_allclose(entry["bbox"], coco_mask.toBbox(entry["segmentation"]))


def test_a_body_alone_proposes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    weights = tmp_path / "body.caffemodel"
    weights.write_bytes(caffe_network.net(caffe_network.random_body(rng)))
    (image,) = write_images(tmp_path, [(64, 64)], rng)
    config = ["--config", str(ROOT / "configs/coco.py"), *caffe_network.command_line()]
    with pytest.raises(ValueError, match=r"does not hold the whole network.*train it first"):
        predict.main(["--weights", str(weights), str(image), "--out", str(tmp_path), *config])


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.jpg: no such image"):
        predict.main(["--weights", "net.caffemodel", str(tmp_path / "nowhere.jpg")])
