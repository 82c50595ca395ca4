"""Which axes of a network's tensors may be permuted together without changing its function."""
