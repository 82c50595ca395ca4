"""Adapters: files that stand for a change of a base network, what they change, and what it takes to know it."""
