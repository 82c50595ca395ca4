"""Weights of one network: named tensors, and the files and wrappers they come in."""
