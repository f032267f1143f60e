"""Form factors and incoherent scattering against published tables."""

from __future__ import annotations

import numpy as np
import pytest
import xraylib

from diffuse_framework.adapters.tables.scattering import form_factors, incoherent_functions, scattering_of
from diffuse_framework.algorithms.absolute.composition import fill_cell, sequence_composition
from diffuse_framework.algorithms.absolute.theory import breit_dirac_factor
from diffuse_framework.errors import ConfigError

# x = sin(theta)/wavelength in 1/angstrom. f0: International Tables C (1992), table 6.1.1.1, Hartree-Fock.
F0 = {
    "C": {0.05: 5.749, 0.10: 5.107, 0.25: 2.949, 0.50: 1.685, 1.00: 1.114},
    "N": {0.05: 6.776, 0.10: 6.180, 0.25: 3.825, 0.50: 1.942, 1.00: 1.265},
    "O": {0.05: 7.798, 0.10: 7.245, 0.25: 4.808, 0.50: 2.338, 1.00: 1.374},
}
# S(x): Hubbell et al. (1975), J. Phys. Chem. Ref. Data 4, 471, to three figures; copied from the files
# data/brown_hubbell/incoherent of the program Glassure, not from xraylib.
S = {
    "C": {0.10: 1.04, 0.25: 3.19, 0.50: 4.47, 1.00: 5.35},
    "O": {0.10: 0.977, 0.25: 3.61, 0.50: 5.83, 1.00: 6.90},
    "S": {0.10: 2.15, 0.25: 5.98, 0.50: 8.96, 1.00: 12.4},
}
# Analytic fit to Hartree-Fock S(x), Z - sum a exp(-b x^2): Balyuzi (1975), Acta Cryst. A31, 600.
BALYUZI = {
    "N": ((0.9070, 64.1555), (2.8972, 20.8507), (1.1659, 7.7576), (1.5526, 1.0335), (0.4769, 0.3516)),
    "O": ((0.8847, 52.0063), (3.2189, 16.4487), (1.7990, 6.5958), (1.5538, 0.8143), (0.5434, 0.2815)),
}


@pytest.mark.parametrize("table", ["wk1995", "it1992"])
@pytest.mark.parametrize("element", F0)
def test_form_factors_are_those_of_the_international_tables(element, table):
    x = np.array(list(F0[element]))
    found = form_factors((element,), 2 * x, table)[0]
    assert np.allclose(found, list(F0[element].values()), rtol=5e-3)


@pytest.mark.parametrize("element", ["H", "C", "N", "O", "S", "Se"])
def test_two_compilations_of_form_factors_agree(element):
    # Hubbell's table, through xraylib, is another calculation. Its hydrogen is the free atom.
    q = np.linspace(0.05, 1.6, 20)
    other = [xraylib.FF_Rayl(xraylib.SymbolToAtomicNumber(element), float(x) / 2) for x in q]
    if element == "H":
        # cctbx tabulates hydrogen as it is bonded (Stewart et al., 1965), which is more compact.
        assert (form_factors(("H",), q)[0] >= np.array(other) - 1e-3).all()
    else:
        assert np.allclose(form_factors((element,), q)[0], other, rtol=0.02)


@pytest.mark.parametrize("element", S)
def test_incoherent_functions_are_hubbells(element):
    x = np.array(list(S[element]))
    assert np.allclose(incoherent_functions((element,), 2 * x)[0], list(S[element].values()), rtol=6e-3)


@pytest.mark.parametrize("element", BALYUZI)
def test_incoherent_functions_agree_with_another_calculation(element):
    x = np.linspace(0.05, 1.5, 30)
    bound = sum(a * np.exp(-b * x**2) for a, b in BALYUZI[element])
    other = xraylib.SymbolToAtomicNumber(element) - bound
    assert np.allclose(incoherent_functions((element,), 2 * x)[0], other, rtol=5e-3)


def test_bound_electrons_do_not_recoil_and_free_ones_all_do():
    found = incoherent_functions(("H", "C", "S"), np.array([0.0, 0.004, 0.02, 40.0]))
    assert (found[:, 0] == 0).all()
    # As x^2 at small x.
    assert np.allclose(found[:, 1] / found[:, 2], 0.04, rtol=0.1)
    assert np.allclose(found[:, 3], [1, 6, 16], rtol=5e-3)


def test_recoil():
    # Compton (1923): at 1 angstrom and 90 degrees the wavelength grows by 0.02426 angstrom.
    q = np.sqrt(2.0)
    assert breit_dirac_factor(q, 1.0) == pytest.approx((1 / 1.024263) ** 2, rel=1e-6)
    assert breit_dirac_factor(0.0, 1.0) == 1


def test_an_element_without_form_factor_is_refused():
    with pytest.raises(ConfigError, match="Xq"):
        form_factors(("Xq",), np.array([0.1]))


def test_sums_over_a_cell_of_water():
    contents = fill_cell(
        {"O": 100, "H": 200}, (), 3000.0, 100, {"O": 15.999, "H": 1.008}, {"O": 8, "H": 1}, waters_per_volume=0
    )
    theory = scattering_of(contents, 1.0, None)
    f = form_factors(("H", "O"), theory.q)
    assert np.allclose(theory.coherent, 200 * f[0] ** 2 + 100 * f[1] ** 2)
    assert theory.coherent[0] == pytest.approx(200 + 6400, rel=1e-3)
    assert theory.f000_squared_density == pytest.approx(1000**2 / 3000)
    assert (scattering_of(contents, 1.0, 1.0).incoherent[1:] < theory.incoherent[1:]).all()


def test_solvent_scatters_but_not_into_bragg_peaks():
    molecule, _ = sequence_composition("GAVLKM" * 10, "protein")
    weights = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "S": 32.06}
    contents = fill_cell(molecule, (), 14000.0, 1, weights, {"H": 1, "C": 6, "N": 7, "O": 8, "S": 16})
    theory = scattering_of(contents, 1.0, None)
    assert (theory.ordered < theory.coherent).all()
