"""How much of a property a representation tells: the same probes for all, on members nobody has seen."""
