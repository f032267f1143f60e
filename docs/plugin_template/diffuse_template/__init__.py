"""Masks rows in a shadow, and pixels that are far too bright."""
