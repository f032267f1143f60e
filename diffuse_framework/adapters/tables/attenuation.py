"""X-ray attenuation of sensors and gases, from the NIST tables that cctbx carries.

Hubbell & Seltzer, NIST Standard Reference Database 126, through `cctbx.eltbx.attenuation_coefficient`.
"""

from __future__ import annotations

from cctbx.eltbx import attenuation_coefficient

from diffuse_framework.errors import ConfigError

# Shares of mass, NIST SRD 126, table 2: "Air, Dry (near sea level)".
DRY_AIR = {"C": 0.000124, "N": 0.755268, "O": 0.231781, "Ar": 0.012827}
HELIUM = {"He": 1.0}

# Grams per mole: dry air from its composition; helium.
_MOLAR_MASS = {"air": 28.9647, "helium": 4.002602}
_COMPOSITION = {"air": DRY_AIR, "helium": HELIUM}

_GAS_CONSTANT = 8.314462618  # J/(mol K), CODATA 2018
_PASCAL_PER_ATM = 101325.0


def sensor_mu_per_mm(material: str, wavelength: float) -> float:
    """Return the linear attenuation of a sensor in 1/mm.

    Args:
        material: an element, "CdTe" or "GaAs".
        wavelength: angstrom.

    Raises:
        ConfigError: a material or a wavelength that the tables do not have.
    """
    table = _table(material)
    return _at_wavelength(table, material, wavelength, "mu_at_angstrom") / 10


def mass_attenuation(gas: str, wavelength: float) -> float:
    """Return the mass attenuation of "air" (dry) or "helium" in cm^2/g.

    Args:
        gas: "air" or "helium".
        wavelength: angstrom.

    Raises:
        ConfigError: a wavelength that the tables do not have.
    """
    return sum(
        share * _at_wavelength(_table(element), element, wavelength, "mu_rho_at_angstrom")
        for element, share in _COMPOSITION[gas].items()
    )


def gas_density(gas: str, temperature_k: float, pressure_atm: float) -> float:
    """Return the density of "air" (dry) or "helium" as an ideal gas, in g/cm^3."""
    moles_per_m3 = pressure_atm * _PASCAL_PER_ATM / (_GAS_CONSTANT * temperature_k)
    return moles_per_m3 * _MOLAR_MASS[gas] * 1e-6


def gas_mu_per_mm(gas: str, wavelength: float, temperature_k: float, pressure_atm: float) -> float:
    """Return the linear attenuation of "air" (dry) or "helium" in 1/mm.

    Args:
        gas: "air" or "helium".
        wavelength: angstrom.
        temperature_k: kelvin.
        pressure_atm: atmospheres.

    Raises:
        ConfigError: a wavelength that the tables do not have.
    """
    return mass_attenuation(gas, wavelength) * gas_density(gas, temperature_k, pressure_atm) / 10


def _table(material: str) -> attenuation_coefficient.table:
    try:
        return attenuation_coefficient.get_table(material)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"there is no attenuation table for {material!r}: there are those of elements, CdTe and GaAs"
        ) from error


def _at_wavelength(table: attenuation_coefficient.table, material: str, wavelength: float, method: str) -> float:
    try:
        return getattr(table, method)(wavelength)
    except RuntimeError as error:
        raise ConfigError(
            f"the attenuation table of {material} does not reach a wavelength of {wavelength:g} angstrom"
        ) from error
