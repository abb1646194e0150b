"""Training: data, the loop, baselines, and the pre-training of the embedded backbone."""
