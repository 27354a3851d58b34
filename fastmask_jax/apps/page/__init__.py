"""The demo page: upload images in a browser and inspect their proposals. Needs requirements-demo.txt."""
