"""Absolute scales: electron units per unit cell."""

from __future__ import annotations

__all__ = ["bragg", "composition", "estimate", "krogh_moe", "norman", "profile", "theory", "wilson"]
