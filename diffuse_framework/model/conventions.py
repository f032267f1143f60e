"""Axes, units and names that every stage shares.

Axes
    Images are ``[slow, fast]``. Vectors are the last axis, ``(..., 3)``. Pixel
    coordinates are ``(fast, slow)`` as in dxtbx, and a pixel is sampled at its
    centre, ``(fast + 0.5, slow + 0.5)``.

Units
    Lengths on the detector are mm, wavelengths angstrom, angles carry ``_deg``
    in their name. ``|s0| = 1/wavelength``. The scattering vector is
    ``q = s1 - s0`` with ``|q| = 1/d`` in 1/angstrom: there is no 2 pi.

Miller indices
    ``q = A hkl`` with A = U B in the laboratory frame of the image, so
    ``hkl = inverse(A) q``. Continuous hkl are fractional; a voxel is named by
    its *integer voxel index* ``(i, j, k)`` and centred on
    ``(i/n_h, j/n_k, k/n_l)``.

Masks
    True means *use this pixel*, as in DIALS. Between the stages a mask is one
    of the three classes below, so that the pixels of Bragg peaks keep counting
    towards the total scattering. The classes are ordered: where masks are
    combined the smallest class wins, therefore no masker can bring back what
    another has removed, and their order is irrelevant.

Counts
    Sums are in photons: (raw value - pedestal) / gain.
"""

from __future__ import annotations

import numpy as np

__all__ = ["BRAGG", "DIFFUSE", "UNTRUSTED"]

UNTRUSTED = np.uint8(0)
BRAGG = np.uint8(1)
DIFFUSE = np.uint8(2)

INDEXED, REFLECTIONS = "indexed.expt", "indexed.refl"
"""What an indexer leaves in the folder it is given, as DIALS writes them."""
