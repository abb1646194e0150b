"""From a training checkpoint to a task bundle, and from a frozen ViT to a slot-aware engine."""
