"""FastMask as pure linen modules: bodies, neck, windows, heads, and the whole network."""
