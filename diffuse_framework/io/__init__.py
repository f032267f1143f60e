"""Files: each appears whole or not at all."""
