"""What there is to see of one image."""
