"""X-ray attenuation of sensors and gases."""

from __future__ import annotations

from diffuse_framework.adapters.tables.attenuation import (
    gas_density,
    gas_mu_per_mm,
    mass_attenuation,
    sensor_mu_per_mm,
)

__all__ = ["gas_density", "gas_mu_per_mm", "mass_attenuation", "sensor_mu_per_mm"]
