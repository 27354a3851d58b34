"""File formats of annotation tools: one module per format, and a table of all formats."""
