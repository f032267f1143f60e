"""Tables of what atoms scatter: f0 from cctbx, Compton scattering from xraylib."""

from __future__ import annotations

import numpy as np
import xraylib
from cctbx.eltbx import xray_scattering

from diffuse_framework.algorithms.absolute.theory import breit_dirac_factor, theory_of
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.contents import CellContents, Theory

FORM_FACTOR_TABLES = {
    "wk1995": "Waasmaier & Kirfel (1995), Acta Cryst. A51, 416",
    "it1992": "International Tables C (1992), table 6.1.1.4",
}
INCOHERENT_TABLE = "Hubbell et al. (1975), J. Phys. Chem. Ref. Data 4, 471, through xraylib's SF_Compt"

_STEP = 0.002
# Where Hubbell's tables begin, sin(theta)/wavelength in 1/angstrom, and a little more.
_LOWEST_X = 0.0101


def form_factors(elements: tuple[str, ...], q: np.ndarray, table: str = "wk1995") -> np.ndarray:
    """Return f0 (n, m) of neutral atoms at |q| (m,) in 1/angstrom, in electrons.

    Args:
        elements: n symbols.
        q: |q| = 1/d.
        table: "wk1995" or "it1992", see `FORM_FACTOR_TABLES`.

    Raises:
        ConfigError: an element the table does not have.
    """
    lookup = getattr(xray_scattering, table)
    values = np.empty((len(elements), len(q)))
    for number, element in enumerate(elements):
        try:
            gaussians = lookup(element, True).fetch()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{element!r} has no form factor in the table {table}; is it an element?") from error
        values[number] = [gaussians.at_stol(float(x) / 2) for x in q]
    return values


def incoherent_functions(elements: tuple[str, ...], q: np.ndarray) -> np.ndarray:
    """Return the incoherent scattering function S (n, m) at |q| (m,) in 1/angstrom, in electrons.

    S counts the electrons that recoil freely: bound electrons make it 0 at |q| = 0, and it reaches the
    atomic number at large |q|. xraylib takes x = sin(theta)/wavelength = |q|/2; below its tables S
    goes as x^2.
    """
    values = np.zeros((len(elements), len(q)))
    for number, element in enumerate(elements):
        z = xraylib.SymbolToAtomicNumber(element)
        x = np.maximum(np.asarray(q, float) / 2, _LOWEST_X)
        values[number] = [xraylib.SF_Compt(z, value) for value in x.tolist()]
        values[number] *= np.square(np.asarray(q, float) / 2 / x)
    return values


def scattering_of(
    contents: CellContents,
    q_max: float,
    wavelength: float | None,
    table: str = "wk1995",
    bonded: bool = False,
) -> Theory:
    """Return what the atoms of a cell scatter on their own up to |q| = q_max (1/angstrom).

    Args:
        contents: of the cell.
        q_max: 1/angstrom.
        wavelength: angstrom, for the Breit-Dirac recoil factor; None leaves the factor out.
        table: of form factors.
        bonded: whether the interference between bonded atoms counts.
    """
    q = np.linspace(0, q_max, int(np.ceil(q_max / _STEP)) + 2)
    recoil = np.ones_like(q) if wavelength is None else breit_dirac_factor(q, wavelength)
    return theory_of(
        contents,
        q,
        form_factors(contents.elements, q, table),
        incoherent_functions(contents.elements, q),
        recoil,
        f"f0: {FORM_FACTOR_TABLES[table]}; incoherent: {INCOHERENT_TABLE}; Breit-Dirac factor: "
        + ("left out" if wavelength is None else f"for {wavelength:.5g} angstrom"),
        bonded,
    )
