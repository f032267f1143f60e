"""Expected photons of every pixel, and images drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import erf

from diffuse_framework.algorithms import factors
from diffuse_framework.algorithms.geometry import (
    pixel_positions,
    project,
    reflections_near_ewald,
    scattering_vectors,
)
from diffuse_framework.algorithms.rotation import index_sweep, n_substeps, sub_settings
from diffuse_framework.errors import GeometryError
from diffuse_framework.fingerprint import fingerprint
from diffuse_framework.model.experiment import BraggSpots
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.simulate.detector import (
    HIGHEST_COUNT,
    MODULE,
    Detector,
    module_corners,
    modules_of,
    split_panel,
)
from diffuse_framework.simulate.rotation import recorded
from diffuse_framework.simulate.truth import Truth

# Spots fainter than this, in photons, leave no observed position.
FAINTEST_OBSERVED = 10.0
# A rotation image is the mean of parts in which no Miller index changes by more than this.
_STEP, _MOST_STEPS = 0.15, 30


def response_without_area(positions_mm: np.ndarray, geometry: Geometry, panel: int, air_per_mm: float) -> np.ndarray:
    """Return P E T (...) at laboratory positions (..., 3) on one panel.

    E is 1 for a sensor of unknown absorption.
    """
    model = geometry.panels[panel]
    response = factors.polarization(positions_mm, geometry.beam)
    if model.mu_per_mm * model.thickness_mm > 0:
        response = response * factors.efficiency(positions_mm, model)
    if air_per_mm > 0:
        response = response * factors.transmission(positions_mm, air_per_mm)
    return response


def exposure(detector: Detector, seconds: float, air_per_mm: float) -> tuple[np.ndarray, ...]:
    """Return t Omega P E T of every pixel, s sr, one (slow, fast) array per panel; 0 in shadow."""
    products = []
    for number, panel in enumerate(detector.geometry.panels):
        positions = pixel_positions(panel)
        response = response_without_area(positions, detector.geometry, number, air_per_mm)
        products.append(seconds * factors.solid_angle(positions, panel) * response * detector.lit[number])
    return tuple(products)


def bragg_spots(truth: Truth, index: int, geometry: Geometry) -> BraggSpots:
    """Return every reflection that image `index` excites and that falls on a panel.

    Intensities are expected photons; a still records only the part `partiality` of each. Of a
    rotation the strength is the mean over the image's angle, and reflections whose centre is on
    another image have no observed position.
    """
    bragg, crystal = truth.bragg, truth.intensity
    setting, beam = truth.setting_matrices[index], geometry.beam
    width, mosaic_width_deg = bragg.reach
    rotation = truth.rotation(index)
    hkl = reflections_near_ewald(setting, beam, crystal.d_min, width, mosaic_width_deg, rotation)
    q = hkl @ setting.T
    length = np.linalg.norm(q, axis=1)
    if rotation is None:
        excitation = np.linalg.norm(q + beam.s0, axis=1) - 1 / beam.wavelength
        excited = partiality = np.exp(-0.5 * (excitation / bragg.excitation_sigma(length)) ** 2)
        centred = np.ones(len(hkl), bool)
    else:
        excited, partiality, q, centred = recorded(q, bragg.excitation_sigma(length), beam, rotation)
    panel, px = project(geometry, _on_sphere(q, beam.s0) + beam.s0)
    strength = crystal.strength(hkl)
    photons = truth.scales[index] * bragg.photons * strength * excited
    photons *= np.exp(-0.5 * bragg.b_factor * length**2)
    hit = (panel >= 0) & (strength > 0)
    hkl, photons, partiality, panel, px, centred = (
        column[hit] for column in (hkl, photons, partiality, panel, px, centred)
    )
    for number, model in enumerate(geometry.panels):
        here = panel == number
        mm = px[here] * np.array(model.pixel_size_mm)
        positions = model.origin_mm + mm[:, :1] * model.fast_axis + mm[:, 1:] * model.slow_axis
        photons[here] *= response_without_area(positions, geometry, number, truth.air_per_mm)
    seen = ((photons > FAINTEST_OBSERVED) & centred)[:, None]
    return BraggSpots(
        hkl=hkl,
        intensity=photons,
        variance=photons.copy(),
        partiality=partiality,
        panel=panel,
        observed_px=np.where(seen, px, np.nan),
        predicted_px=px,
        foreground=np.zeros((0, 3), np.int32),
    )


def _on_sphere(q: np.ndarray, s0: np.ndarray) -> np.ndarray:
    """Turn lattice vectors (n, 3) the shortest way on to the Ewald sphere.

    On the sphere q . s0 = -|q|^2 / 2; the part across the beam keeps its direction.
    """
    unit = s0 / np.linalg.norm(s0)
    squared = np.square(q).sum(1)
    along = -squared / (2 * np.linalg.norm(s0))
    across = q - (q @ unit)[:, None] * unit
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    return along[:, None] * unit + np.sqrt(np.maximum(squared - along**2, 0))[:, None] * across


def add_spots(expected: tuple[np.ndarray, ...], spots: BraggSpots, sigma_px: float, radius_px: int) -> None:
    """Add Gaussian spots to images in place, each pixel the integral over its area.

    Args:
        expected: one (slow, fast) array per panel.
        spots: their `intensity` in photons, at `predicted_px`.
        sigma_px: Gaussian radius.
        radius_px: pixels from the centre's own along fast and slow beyond which a spot is cut off.
    """
    for panel, centre, photons in zip(spots.panel, spots.predicted_px, spots.intensity, strict=True):
        if not photons > 0:
            continue
        image = expected[panel]
        profiles, ranges = [], []
        for axis, size in enumerate(image.shape[::-1]):
            middle = int(centre[axis])
            low, high = max(middle - radius_px, 0), min(middle + radius_px + 1, size)
            edges = (np.arange(low, high + 1) - centre[axis]) / (np.sqrt(2) * sigma_px)
            profiles.append(np.diff(erf(edges)) / 2)
            ranges.append(slice(low, high))
        image[ranges[1], ranges[0]] += photons * profiles[1][:, None] * profiles[0]


@dataclass(frozen=True, eq=False)
class SimulatedSource:
    """The images of a simulation: an `ImageSource` that draws an image whenever it is read.

    The noise of an image depends on the truth's seed and the image's number only, so that images
    are the same in any order, process or number.

    Attributes:
        truth: crystal, scales and orientations.
        detector: of all images.
        noise: False gives expected photons as float64 in place of counts.
    """

    truth: Truth
    detector: Detector
    noise: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """One unique name per image."""
        return self.truth.names

    def __len__(self) -> int:
        return len(self.truth.names)

    def read(self, index: int) -> Frame:
        """Return image number `index`: int32 counts, -1 where there is no pixel."""
        expected = self.expected(index)
        rng = np.random.default_rng([self.truth.seed, 1, index])
        panels = []
        for values, active in zip(expected, self.detector.active, strict=True):
            if self.noise:
                values = np.minimum(rng.poisson(values), HIGHEST_COUNT).astype(np.int32)
            values[~active] = -1
            panels.append(values)
        return Frame(self.names[index], tuple(panels))

    def geometry(self, index: int) -> Geometry:
        """Beam and detector, the same for all images."""
        return self.detector.geometry

    def stamp(self, index: int) -> str:
        """A digest of its counts."""
        return fingerprint(self.read(index).counts)

    def trusted_pixels(self, index: int) -> None:
        """None: what can't be used has values that say so."""

    def exposure_s(self, index: int) -> float:
        """Exposure time in seconds."""
        return self.truth.exposure_s

    def diffuse_only(self) -> SimulatedSource:
        """Return the expected diffuse photons of the same images: no noise, Bragg peaks or background.

        What becomes of them under the masks of a run is what its map would be with endless counts.
        """
        truth = replace(self.truth, bragg=replace(self.truth.bragg, photons=0.0), background_rate=0.0)
        return replace(self, truth=truth, noise=False)

    def without_crystal(self) -> SimulatedSource:
        """Return the same images without the crystal, with a noise of their own: a background series."""
        truth = replace(
            self.truth,
            photons_per_unit=0.0,
            bragg=replace(self.truth.bragg, photons=0.0),
            names=tuple(f"background_{name}" for name in self.names),
            seed=self.truth.seed + 1,
        )
        return replace(self, truth=truth)

    def mean_diffuse_photons(self, n_images: int, n_pixels: int) -> float:
        """Return the mean of the diffuse photons over lit, active pixels of all images.

        Args:
            n_images: at most so many images are used, spread over all.
            n_pixels: likewise pixels of each image.
        """
        truth = self.truth
        step = max(self.detector.geometry.n_pixels // n_pixels, 1)
        numbers = np.unique(np.linspace(0, len(self) - 1, min(n_images, len(self))).astype(int))
        total = count = 0.0
        for exposure_of, q, active, lit in zip(
            self._exposure, self._q, self.detector.active, self.detector.lit, strict=True
        ):
            seen = np.flatnonzero(active & lit)[::step]
            q, exposure_of = q.reshape(-1, 3)[seen], exposure_of.ravel()[seen]
            for index in numbers:
                total += truth.scales[index] * float((exposure_of * self._intensity(index, q)).sum())
            count += len(seen)
        mean_scale = float(truth.scales[numbers].mean())
        return truth.photons_per_unit * total / max(count * len(numbers), 1) / mean_scale

    def expected(self, index: int) -> tuple[np.ndarray, ...]:
        """Return expected photons of image `index`, one (slow, fast) array per panel.

        K b t Omega P E T [I + c] + Bragg peaks + background t, as in `simulate.truth`.
        """
        truth = self.truth
        scale = truth.photons_per_unit * truth.scales[index]
        expected = tuple(
            scale * exposure_of * self._intensity(index, q)
            for exposure_of, q in zip(self._exposure, self._q, strict=True)
        )
        if truth.bragg.photons > 0:
            spots = bragg_spots(truth, index, self.detector.geometry)
            add_spots(expected, spots, truth.bragg.spot_sigma_px, truth.bragg.radius_px)
        for values, lit in zip(expected, self.detector.lit, strict=True):
            values *= lit
            values += truth.background(index) * truth.exposure_s
        return expected

    def _intensity(self, index: int, q: np.ndarray) -> np.ndarray:
        """Return I + c (...) of image `index` at scattering vectors (..., 3) in the laboratory."""
        truth = self.truth
        setting, rotation = truth.setting_matrices[index], truth.rotation(index)
        n_steps = 1
        if rotation is not None:
            sweep = index_sweep(setting, rotation, (1, 1, 1), truth.intensity.d_min)
            n_steps = n_substeps(sweep, _STEP, _MOST_STEPS)
        parts = [
            truth.intensity.diffuse(q @ np.linalg.inv(part).T) for part in sub_settings(setting, rotation, n_steps)
        ]
        intensity = parts[0] if n_steps == 1 else np.mean(parts, axis=0)
        if truth.offsets[index] > 0:
            intensity += truth.offset(index, np.linalg.norm(q, axis=-1))
        return intensity

    @cached_property
    def _q(self) -> tuple[np.ndarray, ...]:
        geometry = self.detector.geometry
        return tuple(scattering_vectors(pixel_positions(panel), geometry.beam) for panel in geometry.panels)

    @cached_property
    def _exposure(self) -> tuple[np.ndarray, ...]:
        return exposure(self.detector, self.truth.exposure_s, self.truth.air_per_mm)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_q", "_exposure")}


@dataclass(frozen=True, eq=False)
class ModuleSource:
    """The same images as another source's, one panel per PILATUS module and no gaps."""

    whole: ImageSource

    def __post_init__(self) -> None:
        """Check the first image.

        Raises:
            GeometryError: it isn't one panel of PILATUS modules.
        """
        panels = self.whole.geometry(0).panels
        if len(panels) != 1 or modules_of(panels[0].shape[::-1]) is None:
            raise GeometryError(f"{self.whole.names[0]} is not one panel of PILATUS modules and can't be split")

    @property
    def names(self) -> tuple[str, ...]:
        """One unique name per image."""
        return self.whole.names

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, index: int) -> Frame:
        """Return image number `index`, cut into modules."""
        frame = self.whole.read(index)
        (image,) = frame.counts
        return replace(
            frame,
            counts=tuple(
                np.ascontiguousarray(image[slow : slow + MODULE[1], fast : fast + MODULE[0]])
                for fast, slow in self._corners(index)
            ),
        )

    def geometry(self, index: int) -> Geometry:
        """Beam and modules of image number `index`, named as dxtbx names them."""
        geometry = self.whole.geometry(index)
        if id(geometry) not in self._split:
            panels = tuple(
                split_panel(geometry.panels[0], corner, MODULE, f"Panel{number}")
                for number, corner in enumerate(self._corners(index))
            )
            # The key's owner is kept, so that no other geometry takes its id.
            self._split[id(geometry)] = geometry, Geometry(geometry.beam, panels)
        return self._split[id(geometry)][1]

    def stamp(self, index: int) -> str:
        """That of the whole image."""
        return self.whole.stamp(index)

    def trusted_pixels(self, index: int) -> None:
        """None: what can't be used has values that say so."""

    def exposure_s(self, index: int) -> float:
        """Exposure time in seconds of image number `index`."""
        return self.whole.exposure_s(index)

    def _corners(self, index: int) -> list[tuple[int, int]]:
        (panel,) = self.whole.geometry(index).panels
        modules = modules_of(panel.shape[::-1])
        return module_corners(modules) if modules else []

    @cached_property
    def _split(self) -> dict:
        return {}

    def __getstate__(self) -> dict:
        return {"whole": self.whole}
