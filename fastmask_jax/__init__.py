"""FastMask in JAX: class-agnostic segment proposals of all sizes from one pass over one image."""

__version__ = "0.1.0"
