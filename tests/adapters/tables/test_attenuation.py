from __future__ import annotations

import numpy as np
import pytest

from diffuse_framework.adapters.tables.attenuation import (
    gas_density,
    gas_mu_per_mm,
    mass_attenuation,
    sensor_mu_per_mm,
)
from diffuse_framework.errors import ConfigError

ANGSTROM_KEV = 12.398419843320026

# Mass attenuation of "Air, Dry (near sea level)" in cm^2/g at keV: Hubbell & Seltzer, NIST
# Standard Reference Database 126 (1996), table 4.
NIST_DRY_AIR = {8.0: 9.921, 10.0: 5.120, 15.0: 1.614}


@pytest.mark.parametrize(("energy_kev", "expected"), NIST_DRY_AIR.items())
def test_dry_air_is_that_of_nist(energy_kev, expected):
    assert np.isclose(mass_attenuation("air", ANGSTROM_KEV / energy_kev), expected, rtol=5e-4)


def test_dry_air_at_12_8_kev_lies_on_the_line_that_nist_draws():
    # Straight between table values in logarithms of both, as the NIST page recommends.
    low, high = (10.0, NIST_DRY_AIR[10.0]), (15.0, NIST_DRY_AIR[15.0])
    slope = np.log(high[1] / low[1]) / np.log(high[0] / low[0])
    expected = low[1] * (12.8 / low[0]) ** slope
    assert np.isclose(mass_attenuation("air", ANGSTROM_KEV / 12.8), expected, rtol=2e-3)


def test_the_density_of_air_is_that_of_nist():
    # 1.205e-3 g/cm^3 at 20 degrees Celsius and 1 atm: the same database, table 2.
    assert np.isclose(gas_density("air", 293.15, 1.0), 1.205e-3, rtol=1e-3)


def test_a_thinner_gas_absorbs_less():
    cold, warm, high = (gas_mu_per_mm("air", 1.0, *state) for state in ((273, 1.0), (303, 1.0), (273, 0.7)))
    assert warm < cold and np.isclose(high, 0.7 * cold)
    assert gas_mu_per_mm("helium", 1.0, 273, 1.0) < cold / 50


def test_silicon_is_what_dxtbx_writes_into_a_pilatus_panel():
    # dxtbx 3.12, FormatCBFMiniPilatus on an image taken at 0.96859 angstrom.
    assert np.isclose(sensor_mu_per_mm("Si", 0.96859), 3.8326187041206916, rtol=1e-9)


@pytest.mark.parametrize(("material", "wavelength"), [("", 1.0), ("Unobtainium", 1.0), ("Si", 1e4), ("Si", 0.0)])
def test_what_no_table_has_is_named(material, wavelength):
    with pytest.raises(ConfigError):
        sensor_mu_per_mm(material, wavelength)
