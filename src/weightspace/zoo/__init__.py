"""Populations of trained networks on disk."""
