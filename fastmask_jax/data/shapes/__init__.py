"""The dataset of drawn shapes, in COCO format."""
