"""Proposals in the file formats of annotation tools: a module for each format, and a table of them."""
