"""The page of demo.py: images into a browser, proposals out of it. Needs requirements-demo.txt."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported, and later
