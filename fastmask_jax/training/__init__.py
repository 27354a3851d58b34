"""Losses, optimiser, the step, checkpoints and the loop."""
