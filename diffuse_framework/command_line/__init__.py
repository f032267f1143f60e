"""One page per command: parse, log, call, write."""
