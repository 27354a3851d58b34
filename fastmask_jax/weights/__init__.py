"""Loads weights from many sources: resolves a source, maps its arrays to the network's names, reports the result."""
