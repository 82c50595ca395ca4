"""SANE: the sequential autoencoder for neural embeddings, its training and its use."""
