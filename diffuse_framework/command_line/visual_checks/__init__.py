"""Commands that look at one step at a time, in pictures and answered questions."""
