"""pgn-edge: one frozen ViT engine on the device, any number of tasks beside it as small PGN bundles."""

__version__ = "0.1.0"
