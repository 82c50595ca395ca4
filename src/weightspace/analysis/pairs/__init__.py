"""Two checkpoints: the same, one made from the other, or strangers."""
