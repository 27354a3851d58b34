"""Training: losses, optimizer, step, devices and loop."""
