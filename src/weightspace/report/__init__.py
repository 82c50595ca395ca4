"""Results as tables in the terminal, figures, and one self-contained HTML page."""
