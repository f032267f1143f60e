"""Scaling models as DIALS has them."""
