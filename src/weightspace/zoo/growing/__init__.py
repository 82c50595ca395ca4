"""Growing zoos: train a population of networks, in the way that is fastest here."""
