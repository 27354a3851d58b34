"""Configs: the numbers of the paper and of each bundled network. A file has a function `get_config(variant)`."""
