"""Indexing by DIALS."""
