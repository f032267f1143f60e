"""Which pixels can't be used, and which belong to Bragg peaks."""

from __future__ import annotations

__all__ = ["bad_pixels", "shapes"]
