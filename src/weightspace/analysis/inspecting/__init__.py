"""What is in a folder of checkpoints."""
