"""Weights to tokens and back, exactly; windows of tokens."""
