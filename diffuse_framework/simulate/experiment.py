"""A whole simulated data set, from a few settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from diffuse_framework.algorithms.geometry import highest_resolution
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment, Image, Symmetry
from diffuse_framework.model.lattice import Cell
from diffuse_framework.simulate.crystals import primitive_symmetry, random_rotations
from diffuse_framework.simulate.detector import Detector, header_beam, pilatus
from diffuse_framework.simulate.images import SimulatedSource, bragg_spots
from diffuse_framework.simulate.intensity import BraggParameters, DiffuseParameters, make_intensity
from diffuse_framework.simulate.rotation import RotationSettings, make_sweeps
from diffuse_framework.simulate.truth import Truth

# Images and pixels of each that set the mean count.
_SAMPLE_IMAGES, _SAMPLE_PIXELS = 20, 20_000


def default_detector() -> Detector:
    """Return a PILATUS 300K that reaches about 1.8 angstrom in its corners."""
    return pilatus((1, 3), 100.0, header_beam(1.0))


@dataclass(frozen=True, eq=False)
class SimulationSettings:
    """What to simulate.

    Attributes:
        n_images: stills, or images of each sweep.
        counts_per_pixel: mean diffuse photons of a pixel that exists and is lit, over all images;
            without Bragg peaks and background.
        cell: angstrom and degrees.
        symmetry: None takes P212121.
        detector: None takes `default_detector`.
        diffuse, bragg: what the crystal scatters.
        exposure_s: seconds, each image.
        scale_spread: standard deviation of the logarithm of the images' scales.
        offset: images get an isotropic offset c_i between 0 and this, in units of the intensity.
        air_per_mm: linear absorption of the air.
        background_rate: photons per second in each pixel.
        setting_matrices: (n_images, 3, 3) A of the images; random orientations where not given.
        name: of the images, with the image's number from 1.
        rotation: sweeps of a turning crystal in place of stills in random orientations.
        background_turn: part of itself by which the background varies with the angle.
        seed: everything random follows from it.
    """

    n_images: int = 20
    counts_per_pixel: float = 1.0
    cell: Cell = (34.0, 39.0, 45.0, 90.0, 90.0, 90.0)
    symmetry: Symmetry | None = None
    detector: Detector | None = None
    diffuse: DiffuseParameters = field(default_factory=DiffuseParameters)
    bragg: BraggParameters = field(default_factory=BraggParameters)
    exposure_s: float = 0.1
    scale_spread: float = 0.3
    offset: float = 0.0
    air_per_mm: float = 0.0
    background_rate: float = 0.0
    setting_matrices: np.ndarray | None = None
    name: str = "sim_%05d.cbf"
    seed: int = 0
    rotation: RotationSettings | None = None
    background_turn: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that describe no experiment.

        Raises:
            ConfigError: which setting, and what it must be.
        """
        if self.n_images < 1:
            raise ConfigError(f"images={self.n_images}: simulate at least one")
        if not self.counts_per_pixel > 0:
            raise ConfigError(f"counts_per_pixel={self.counts_per_pixel:g} must be above 0")
        if not self.exposure_s > 0:
            raise ConfigError(f"exposure_time={self.exposure_s:g} must be above 0")
        if min(self.scale_spread, self.offset, self.air_per_mm, self.background_rate, self.seed) < 0:
            raise ConfigError("spread of scales, offset, air absorption, background and seed can't be negative")
        if self.setting_matrices is not None and np.shape(self.setting_matrices) != (self.n_images, 3, 3):
            raise ConfigError(f"{self.n_images} images need as many setting matrices, (3, 3) each")
        if self.setting_matrices is not None and self.rotation is not None:
            raise ConfigError("the setting matrices of a rotation follow from its first; give none")


@dataclass(frozen=True, eq=False)
class Simulation:
    """Images, what indexing ought to find in them, and what they were made from."""

    source: SimulatedSource
    experiment: Experiment
    truth: Truth


def simulate(settings: SimulationSettings, extinct: Callable[[np.ndarray], np.ndarray] | None = None) -> Simulation:
    """Return a simulated data set; its images are drawn when they are read.

    Args:
        settings: what to simulate.
        extinct: tells for integers (n, 3) which reflections (n,) the space group extinguishes;
            none where not given.

    Raises:
        ConfigError: settings that contradict each other.
    """
    symmetry = settings.symmetry or primitive_symmetry("P212121")
    detector = settings.detector or default_detector()
    d_min = highest_resolution(detector.geometry)
    intensity = make_intensity(settings.cell, symmetry, d_min, settings.diffuse, settings.seed, extinct)
    rng = np.random.default_rng([settings.seed, 0])
    n_images, names = settings.n_images, [settings.name % (n + 1) for n in range(settings.n_images)]
    angles_deg = sweep = None
    crystal_scales = np.ones(1)
    if settings.rotation is None:
        setting_matrices = random_rotations(n_images, rng) @ intensity.basis
        if settings.setting_matrices is not None:
            setting_matrices = settings.setting_matrices
    else:
        sweeps = make_sweeps(settings.rotation, n_images, intensity.basis, rng)
        setting_matrices, angles_deg, sweep = sweeps.setting_matrices, sweeps.angles_deg, sweeps.sweep
        names = [sweep_name(settings, s, n) for s in range(settings.rotation.sweeps) for n in range(n_images)]
        crystal_scales = np.exp(settings.rotation.scale_spread * rng.normal(size=settings.rotation.sweeps))
        crystal_scales, n_images = crystal_scales[sweep], len(sweep)
    scales = np.exp(settings.scale_spread * rng.normal(size=n_images)) * crystal_scales
    offsets = settings.offset * rng.random(n_images)
    truth = Truth(
        intensity=intensity,
        bragg=settings.bragg,
        names=tuple(names),
        scales=scales / scales.mean(),
        offsets=offsets - offsets.min(),
        setting_matrices=setting_matrices,
        exposure_s=settings.exposure_s,
        air_per_mm=settings.air_per_mm,
        background_rate=settings.background_rate,
        seed=settings.seed,
        counts_per_pixel=settings.counts_per_pixel,
        width_deg=settings.rotation.width_deg if settings.rotation else 0.0,
        angles_deg=angles_deg,
        sweep=sweep,
        background_turn=settings.background_turn,
    )
    per_unit = SimulatedSource(truth, detector).mean_diffuse_photons(_SAMPLE_IMAGES, _SAMPLE_PIXELS)
    if not per_unit > 0:
        raise ConfigError("the beamstop covers all pixels of the detector: make detector.beamstop_radius smaller")
    truth = replace(truth, photons_per_unit=settings.counts_per_pixel / per_unit)
    return Simulation(SimulatedSource(truth, detector), experiment_of(truth, detector), truth)


def sweep_name(settings: SimulationSettings, sweep: int, number: int) -> str:
    """Return the name of an image of a sweep, both counted from 0; only several sweeps are numbered."""
    several = settings.rotation is not None and settings.rotation.sweeps > 1
    name = settings.name % (number + 1)
    if not several:
        return name
    stem, _, rest = name.rpartition("_")
    return f"{stem}_{sweep + 1}_{rest}"


def experiment_of(truth: Truth, detector: Detector) -> Experiment:
    """Return what a perfect indexer finds: true orientations, and every excited reflection."""
    images = tuple(
        Image(
            name=name,
            source_index=number,
            geometry=0,
            exposure_s=truth.exposure_s,
            setting_matrix=truth.setting_matrices[number],
            mosaic_width_deg=truth.bragg.reach[1],
            spots=bragg_spots(truth, number, detector.geometry),
            rotation=truth.rotation(number),
            crystal=None if truth.sweep is None else int(truth.sweep[number]),
        )
        for number, name in enumerate(truth.names)
    )
    return Experiment((detector.geometry,), truth.intensity.symmetry, images)
