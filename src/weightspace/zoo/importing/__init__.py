"""Other people's layouts: each reader lists a folder's checkpoints with their properties, and loads them."""
