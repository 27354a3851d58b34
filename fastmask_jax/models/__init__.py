"""FastMask as pure linen modules: bodies, neck, windows, heads, and the network that joins them."""
