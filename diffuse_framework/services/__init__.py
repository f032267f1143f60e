"""What plugins may use beside the model, the stages and the listed algorithms: tables, symmetry, images, masks.

A thin layer over `diffuse_framework.adapters`, which is private: arrays and dataclasses of
`diffuse_framework.model` go in and come out, never objects of dxtbx, dials or cctbx.
"""

from __future__ import annotations

__all__ = [
    "attenuation",
    "cell_contents",
    "electron_units",
    "form_factors",
    "images",
    "masks",
    "predictions",
    "symmetry",
]
