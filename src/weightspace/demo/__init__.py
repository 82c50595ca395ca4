"""The whole story on an embedded data set, ending in a report."""
