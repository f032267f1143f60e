"""Scaling models: what they are, how they are fitted, what disagrees with them."""
