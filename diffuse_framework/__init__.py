"""From diffraction images to a map of diffuse scattering, one plugin per step."""

from __future__ import annotations

import pluggy

__version__ = "0.1.0.dev0"

hookimpl = pluggy.HookimplMarker("diffuse_framework")
