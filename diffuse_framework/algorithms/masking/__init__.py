"""Which pixels can't be used, and which belong to Bragg peaks."""
