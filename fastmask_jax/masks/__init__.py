"""Masks in NumPy: pasting of window logits, run-length encoding, suppression, results files, drawing."""
