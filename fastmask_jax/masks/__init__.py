"""Masks in NumPy: pasting window logits, run-length encoding, suppression, results files, drawing."""
