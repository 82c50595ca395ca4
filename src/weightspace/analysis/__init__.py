"""Reading networks: what a representation of their weights tells about them."""
