"""Parameter files: `core.phil` and examples to copy."""
