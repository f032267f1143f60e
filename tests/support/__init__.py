"""What tests and benchmarks share: makers of data, and a browser."""
