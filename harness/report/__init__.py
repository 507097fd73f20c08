"""A result becomes tables, an HTML report, heat maps and plots; nothing is computed here that a gate would read."""
