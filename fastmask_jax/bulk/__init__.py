"""Proposals of millions of images on one machine or a Ray cluster: fastmask propose-dataset."""
