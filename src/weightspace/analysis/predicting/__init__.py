"""What a single network is like, with intervals, or that it is like none of the zoo."""
