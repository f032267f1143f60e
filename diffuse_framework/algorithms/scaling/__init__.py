"""Scaling models: what they are, how they are fitted, what disagrees with them."""

from __future__ import annotations

__all__ = ["overlap", "per_image"]
