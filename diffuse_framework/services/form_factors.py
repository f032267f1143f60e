"""What atoms scatter: form factors, incoherent scattering, and both summed over a unit cell."""

from __future__ import annotations

from diffuse_framework.adapters.tables.scattering import (
    FORM_FACTOR_TABLES,
    form_factors,
    incoherent_functions,
    scattering_of,
)

__all__ = ["FORM_FACTOR_TABLES", "form_factors", "incoherent_functions", "scattering_of"]
