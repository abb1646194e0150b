"""Torch side of the core: generators, the token library, frozen ViT adapters."""
