"""Orientations of crystals."""
