"""Physical tables, and what a cell contains."""
