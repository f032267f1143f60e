"""Images of a crystal of atoms, whose absolute scale is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffuse_framework.model.contents import CellContents, Theory
from diffuse_framework.model.experiment import Experiment, Image, Symmetry
from diffuse_framework.simulate.atoms import AtomicIntensity, FormFactors, make_crystal
from diffuse_framework.simulate.crystals import random_rotations
from diffuse_framework.simulate.detector import header_beam, pilatus
from diffuse_framework.simulate.images import SimulatedSource
from diffuse_framework.simulate.intensity import BraggParameters
from diffuse_framework.simulate.rotation import RotationSettings, make_sweeps
from diffuse_framework.simulate.truth import Truth

# Photons per second, steradian and electron unit: 1/k.
PHOTONS = 20.0

NUMBERS = {"C": 6, "N": 7, "O": 8, "S": 16}

SETTINGS = """
grid.hkl.divisions = 3 3 3
grid.hkl.d_min = 1.25
masker.plugins = trusted reciprocal
masker.reciprocal.radius = 0.01
corrector.plugins = solid_angle polarization efficiency
"""


@dataclass(frozen=True)
class Tables:
    """What comes from DIALS and from tables: `adapters.scattering` and `adapters.symmetry` have them.

    Attributes:
        form_factors: f0 of elements.
        scattering_of: contents, highest |q| in 1/angstrom and wavelength in angstrom to what atoms scatter.
        symmetry: of P222, the space group of the crystal.
    """

    form_factors: FormFactors
    scattering_of: Callable[[CellContents, float, float], Theory]
    symmetry: Symmetry


class AtomImages:
    """Stills in random orientations, or sweeps, to 1.2 angstrom, with 20% of spread between images.

    Attributes:
        crystal: the atoms.
        contents, theory: of the cell.
        source, experiment: the images, and what a perfect indexer finds.
    """

    def __init__(
        self,
        tables: Tables,
        n_images: int = 40,
        rotation: RotationSettings | None = None,
        seed: int = 2,
        exposure_s: float = 1.0,
    ) -> None:
        """Place the atoms; images are drawn when they are read.

        Args:
            tables: f0 and the like.
            n_images: stills, or images of each sweep.
            rotation: None for stills.
            seed: of atoms, orientations, scales and noise.
            exposure_s: of each image, in seconds.
        """
        rng, symmetry = np.random.default_rng(seed), tables.symmetry
        odds = {"C": 0.6, "N": 0.15, "O": 0.23, "S": 0.02}
        self.crystal = make_crystal(
            (21.0, 23.0, 25.0, 90.0, 90.0, 90.0), symmetry, odds, tables.form_factors, rng, 0.02, 3.0
        )
        counts = self.crystal.counts()
        numbers = np.array([NUMBERS[name] for name in counts])
        atoms = np.array(list(counts.values()), float)
        self.contents = CellContents(
            tuple(counts), atoms, 0 * atoms, numbers, self.crystal.volume, 1, 0.0, 0.0, 0.0, "the simulation"
        )
        self.theory = tables.scattering_of(self.contents, 1.6, 1.0)
        detector = pilatus((1, 3), 38.0, header_beam(1.0))
        sweeps = make_sweeps(rotation, n_images, self.crystal.basis, rng) if rotation else None
        setting = sweeps.setting_matrices if sweeps else random_rotations(n_images, rng) @ self.crystal.basis
        scales = np.exp(0.2 * rng.normal(size=len(setting)))
        # A truth that is written to a file holds the other kind of intensity; images need no more than this.
        intensity: Any = AtomicIntensity(self.crystal, self.theory, 1.0, peak_sigma=0.003)
        truth = Truth(
            intensity=intensity,
            bragg=BraggParameters(photons=0.0),
            names=tuple(f"atoms_{number:03d}" for number in range(len(setting))),
            scales=scales / scales.mean(),
            offsets=np.zeros(len(setting)),
            setting_matrices=setting,
            exposure_s=exposure_s,
            photons_per_unit=PHOTONS,
            seed=seed,
            width_deg=rotation.width_deg if rotation else 0.0,
            angles_deg=sweeps.angles_deg if sweeps else None,
            sweep=sweeps.sweep if sweeps else None,
        )
        self.source = SimulatedSource(truth, detector)
        images = tuple(
            Image(name, n, 0, exposure_s, setting[n], rotation=truth.rotation(n)) for n, name in enumerate(truth.names)
        )
        self.experiment = Experiment((detector.geometry,), symmetry, images)

    def parameters(self, method: str, **settings: str) -> str:
        """Return PHIL text for an absolute scaler that knows the cell's contents."""
        formula = "".join(f"{name}{count / 4:g}" for name, count in self.crystal.counts().items())
        own = {"contents.formula": formula, "contents.solvent.fill": "False", "interference": "none"} | settings
        lines = "".join(f"absolute_scaler.{method}.{name} = {value}\n" for name, value in own.items())
        return f"{SETTINGS}absolute_scaler.plugin = {method}\n{lines}"
