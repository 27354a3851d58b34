"""The page of demo.py: images into a browser, proposals out of it. Needs requirements-demo.txt."""
