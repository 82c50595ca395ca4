"""What networks do: their units and outputs on synthetic inputs, without labels and without data."""
