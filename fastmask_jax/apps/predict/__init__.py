"""Files, folders and videos → results and pictures: what `fastmask predict` does."""
