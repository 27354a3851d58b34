"""Implements `fastmask predict`: from files, folders and videos to results and pictures."""
