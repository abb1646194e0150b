"""Readers of published data sets: each finds its files under a folder, and lists them without decoding an image."""
