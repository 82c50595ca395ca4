"""What each operation of a traced graph does to the labels of its values."""
