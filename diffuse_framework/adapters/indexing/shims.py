"""Stand-ins for modules that some distribution of DIALS leaves out."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def provide_missing_modules() -> None:
    """Put empty modules in place of missing ones that DIALS imports and does not use."""
    # Debian 12's DIALS 3.12.1 lacks this compiled module. `xfel.mono_simulation`, which DIALS
    # imports to estimate the mosaicity of stills, imports it and needs nothing of it; without
    # it no still is indexed. Newer releases (3.30 is one) take that code from `serialtbx`.
    _provide("xfel_mono_sim_ext")


def _provide(name: str) -> None:
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = ModuleType(name, "Empty stand-in, see diffuse_framework.adapters.indexing.shims.")
