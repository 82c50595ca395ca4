"""From a zoo to standardised, canonical tokens, drawn on the fly."""
