"""What a trained PGN does: clusters, library usage, attention and robustness, as pictures and numbers."""
