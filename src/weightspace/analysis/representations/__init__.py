"""What a network is turned into before anything is read from it: baselines, and SANE's embeddings."""
