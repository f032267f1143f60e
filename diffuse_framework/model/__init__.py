"""What flows between the stages: frozen dataclasses of numpy arrays.

`diffuse_framework.model.conventions` has the axes, units and names they share.
"""

from __future__ import annotations

__all__ = [
    "contents",
    "conventions",
    "experiment",
    "geometry",
    "grid",
    "lattice",
    "maps",
    "mask",
    "pixels",
    "reindexing",
    "scales",
    "source",
    "voxel_map",
    "voxels",
]
