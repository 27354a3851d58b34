"""Weights from everywhere: a text names a source, its arrays get the network's names, a report says which."""
