"""Two maps side by side, in words and in pictures."""
