"""Frames in and out of video files, and objects followed from frame to frame."""
