"""The default plugins; they reach the core through entry points, like anybody's."""
