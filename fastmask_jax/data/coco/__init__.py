"""COCO-format annotations → checked objects → records."""
