"""From diffraction images to a map of diffuse scattering, one plugin per step."""

from __future__ import annotations

import pluggy

from diffuse_framework.compiled import go_on_without_cache

__version__ = "0.1.0.dev0"

hookimpl = pluggy.HookimplMarker("diffuse_framework")

# Loops are compiled as their modules are imported: before anything else.
go_on_without_cache()
