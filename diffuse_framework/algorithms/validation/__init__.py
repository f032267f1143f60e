"""Which indexed images and sweeps can be trusted."""
