"""Masks in NumPy: window logits pasted into the image, run-length encoding, suppression, results files, drawing."""
