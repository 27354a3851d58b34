"""Reads and writes video files, and tracks objects from frame to frame."""
