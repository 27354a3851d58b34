"""The commands `fastmask NAME`, one module each. Arguments are checked before heavy packages are imported."""
