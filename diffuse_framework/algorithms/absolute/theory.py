"""What the atoms of a unit cell scatter on their own: coherent, incoherent, and between bonded neighbours."""

from __future__ import annotations

import numpy as np

from diffuse_framework.model.contents import CellContents, Theory

__all__ = ["COMPTON_WAVELENGTH", "atomic_integrals", "bonded_interference", "breit_dirac_factor", "theory_of"]

# h / (m_e c) in angstrom, CODATA 2018.
COMPTON_WAVELENGTH = 0.0242631023867


def breit_dirac_factor(q: np.ndarray, wavelength: float) -> np.ndarray:
    """Return the recoil factor (...) of the number of photons that electrons scatter incoherently.

    (E'/E)^2 = (1 + 2 lambda_C sin^2(theta) / lambda)^-2, from Breit (1926), Phys. Rev. 27, 362, and
    Dirac (1926), Proc. R. Soc. A 111, 405. A detector that counts photons needs the square, one that
    integrates energy the cube (International Tables C, section 7.4.3).

    Args:
        q: (...) |q| in 1/angstrom.
        wavelength: angstrom.
    """
    sin_theta_squared = np.square(0.5 * wavelength * np.asarray(q, float))
    return (1 + 2 * COMPTON_WAVELENGTH / wavelength * sin_theta_squared) ** -2


# Neighbours within 2.7 angstrom in proteins: distance in angstrom and pairs per heavy atom, or per
# hydrogen where there is one in the pair. Counted in PDB entries 3AL1 and 1TII (no hydrogens) and in
# il2.pdb of PyMOL's test data (a model of interleukin-2 with hydrogens). For the bonds the three agree
# to 10%, for most of the other distances to 20%; the values are rounded means.
_HEAVY_PAIRS = ((1.235, 0.17), (1.46, 0.83), (2.375, 0.75), (2.51, 0.61))
_HEAVY_HYDROGEN_PAIRS = ((1.08, 1.0), (2.10, 1.80), (2.35, 0.15), (2.59, 1.30))
_HYDROGEN_PAIRS = ((1.77, 0.50), (2.36, 0.65), (2.56, 0.75))
# The free molecule: pairs per molecule.
_WATER_OH, _WATER_HH = (0.957, 2.0), (1.514, 1.0)


def bonded_interference(contents: CellContents, q: np.ndarray, form_factors: np.ndarray) -> np.ndarray:
    """Return the interference (m,) between atoms that bonds hold within 2.7 angstrom of each other.

    Sum over pairs of 2 f_a f_b sin(2 pi q r) / (2 pi q r), Debye (1915), Ann. Phys. 351, 809. The sum
    rule takes atoms not to overlap, and to lie so far apart that interference has averaged out
    below the cutoff. Bonded atoms do neither: without this term k is some 10% low at a cutoff of
    0.7 1/angstrom. Distances in proteins differ so little that their mean numbers serve for all.

    Args:
        contents: of the cell, n elements.
        q: (m,) |q| in 1/angstrom.
        form_factors: (n, m) f0 of each element.
    """
    hydrogen = np.array([number == 1 for number in contents.atomic_numbers])
    f_h = form_factors[hydrogen].sum(axis=0) if hydrogen.any() else np.zeros_like(q)
    n_h, n_heavy = contents.ordered[hydrogen].sum(), contents.ordered[~hydrogen].sum()
    f_heavy = contents.ordered[~hydrogen] @ form_factors[~hydrogen] / max(n_heavy, 1e-9)

    def waves(pairs: tuple[tuple[float, float], ...]) -> np.ndarray:
        return sum((2 * n * np.sinc(2 * q * distance) for distance, n in pairs), np.zeros_like(q))

    total = n_heavy * f_heavy**2 * waves(_HEAVY_PAIRS)
    total += n_h * f_heavy * f_h * waves(_HEAVY_HYDROGEN_PAIRS) + n_h * f_h**2 * waves(_HYDROGEN_PAIRS)
    oxygen = np.array([number == 8 for number in contents.atomic_numbers])
    if oxygen.any() and hydrogen.any():
        waters = min(contents.solvent[oxygen].sum(), contents.solvent[hydrogen].sum() / 2)
        f_o = form_factors[oxygen][0]
        total += waters * (f_o * f_h * waves((_WATER_OH,)) + f_h**2 * waves((_WATER_HH,)))
    return total


def theory_of(
    contents: CellContents,
    q: np.ndarray,
    form_factors: np.ndarray,
    bound_electrons: np.ndarray,
    recoil: np.ndarray,
    source: str,
    bonded: bool = False,
) -> Theory:
    """Return what the atoms of a cell scatter on their own.

    Args:
        contents: of the cell, n elements.
        q: (m,) |q| in 1/angstrom.
        form_factors: (n, m) f0 of each element, electrons.
        bound_electrons: (n, m) incoherent scattering function S of each element, which runs from 0,
            where binding stops every electron from recoiling, to the atomic number.
        recoil: (m,) relativistic factor of `breit_dirac_factor`, or ones.
        source: of the tables.
        bonded: whether `bonded_interference` belongs to it.
    """
    interference = bonded_interference(contents, q, form_factors) if bonded else 0.0
    return Theory(
        q=q,
        coherent=contents.counts @ form_factors**2 + interference,
        ordered=contents.ordered @ form_factors**2,
        incoherent=contents.counts @ bound_electrons * recoil,
        f000_squared_density=contents.electrons**2 / contents.cell_volume,
        source=source,
    )


def atomic_integrals(theory: Theory, edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the integrals (n,) of `values` (m,), given at `theory.q`, over spheres of radius edges[1:]."""
    steps = np.diff(theory.q)
    integrand = 4 * np.pi * theory.q**2 * values
    running = np.concatenate([[0], np.cumsum((integrand[1:] + integrand[:-1]) / 2 * steps)])
    return np.interp(edges[1:], theory.q, running)
