"""Applications: the commands, video processing and the demo page."""
