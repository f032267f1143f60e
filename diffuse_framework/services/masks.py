"""Mask files of DIALS, as `dials.generate_mask` and this program write them."""

from __future__ import annotations

from diffuse_framework.adapters.images.masks import read_mask, write_mask

__all__ = ["read_mask", "write_mask"]
