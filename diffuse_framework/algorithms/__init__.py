"""The science as pure functions on arrays: no plugins, parameters or files.

What ``__all__`` lists here and in the packages below is public: plugins may use it.
"""

from __future__ import annotations

__all__ = [
    "absolute",
    "binning",
    "expansion",
    "factors",
    "geometry",
    "lattice",
    "masking",
    "merging",
    "rotation",
    "scaling",
    "statistics",
    "symmetry",
]
