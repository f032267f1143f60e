"""Ice and powder rings, found on each image from its radial profile."""
