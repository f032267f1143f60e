"""The parameters of a simulation as a user writes them, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.simulate.crystals import as_cell
from diffuse_framework.simulate.detector import (
    PILATUS_SIZES,
    Detector,
    Sensor,
    header_beam,
    one_panel,
    pilatus,
    with_beamstop,
)
from diffuse_framework.simulate.experiment import SimulationSettings
from diffuse_framework.simulate.intensity import BraggParameters, DiffuseParameters
from diffuse_framework.simulate.rotation import RotationSettings

PHIL = """
images = 20
  .type = int(value_min=1)
  .help = "Number of stills in random orientations, or of images of each sweep."
counts_per_pixel = 1.0
  .type = float(value_min=0)
  .help = "Mean photons of diffuse scattering in a pixel, over all images."
seed = 0
  .type = int(value_min=0)
  .help = "The same seed gives the same crystal, orientations, scales and noise."
exposure_time = 0.1
  .type = float(value_min=0)
  .help = "Exposure time of each image, seconds."

rotation
  .help = "Sweeps of a turning crystal in place of stills."
{
  width = 0.0
    .type = float(value_min=0)
    .help = "Oscillation width of each image, degrees; 0 makes stills."
  start = 0.0
    .type = float(value_min=-360, value_max=360)
    .help = "Angle at which each sweep starts, degrees."
  sweeps = 1
    .type = int(value_min=1)
    .help = "Number of sweeps, each of a crystal of its own in a random orientation."
  drift = 0.0
    .type = float(value_min=-90, value_max=90)
    .help = "Degrees by which a crystal slips, about the beam, from the beginning to the end of its sweep."
  scale_spread = 0.0
    .type = float(value_min=0)
    .help = "Standard deviation of the logarithm of the crystals' scales; images have theirs on top."
}

crystal {
  unit_cell = 34,39,45,90,90,90
    .type = unit_cell
    .help = "Unit cell, angstrom and degrees."
  space_group = P212121
    .type = space_group
    .help = "Space group: the map has the symmetry of its Laue group."
  mosaicity = 0.05
    .type = float(value_min=0)
    .help = "Gaussian sigma, in degrees, of the orientation of mosaic blocks."
}

beam {
  wavelength = 1.0
    .type = float(value_min=0)
    .help = "Wavelength, angstrom."
  polarization = 0.999
    .type = float(value_min=0, value_max=1)
    .help = "Fraction of polarisation in the horizontal plane. dxtbx gives every mini-CBF file 0.999: after another"
            "value, process with input.reference_geometry=truth.expt."
}

detector {
  model = 100K *300K 1M 2M 6M
    .type = choice
    .help = "PILATUS detector, with its gaps."
  size = None
    .type = ints(size=2, value_min=1)
    .help = "Pixels, fast and slow, of a detector without gaps in place of a PILATUS."
  distance = 100.0
    .type = float(value_min=0)
    .help = "Distance from the sample, mm."
  beam_centre = None
    .type = floats(size=2)
    .help = "Where the beam meets the detector, pixels, fast and slow; a little off the middle if not given."
  material = *Si CdTe
    .type = choice
    .help = "Material of the sensor."
  thickness = 0.45
    .type = float(value_min=0)
    .help = "Thickness of the sensor, mm; 0 for a detector that counts every photon."
  beamstop_radius = 0.0
    .type = float(value_min=0)
    .help = "Radius of the shadow about the beam at the detector, mm."
}

diffuse
  .help = "What the diffuse intensity is made of; amplitudes are relative to each other."
{
  halo = 1.0
    .type = float(value_min=0)
    .help = "Strength of halos around the reciprocal lattice points, relative to cloud and water."
  cloud = 1.0
    .type = float(value_min=0)
    .help = "Strength of what varies smoothly from one lattice point to the next, relative to halo and water."
  water = 1.0
    .type = float(value_min=0)
    .help = "Strength of an isotropic ring on a slope, relative to halo and cloud."
  displacement = 0.45
    .type = float(value_min=0)
    .help = "Root mean square displacement of the atoms, angstrom: diffuse intensity is strongest"
            "at d = 2 pi times this."
  correlation = Auto
    .type = floats(size=2, value_min=0)
    .help = "How far displacements along the scattering vector, and across it, are correlated, angstrom:"
            "the longer, the sharper the halos. Auto takes a fifth and a third of the cell's edge."
  offset = 0.0
    .type = float(value_min=0)
    .help = "Each image gets an isotropic offset between 0 and this, relative to the amplitudes above."
}

bragg {
  photons = 3000.0
    .type = float(value_min=0)
    .help = "Mean photons of a fully excited reflection at low resolution; 0 leaves Bragg peaks out."
  b_factor = 15.0
    .type = float(value_min=0)
    .help = "B factor by which the peaks fall off with resolution, square angstrom."
  spot_sigma = 1.1
    .type = float(value_min=0)
    .help = "Gaussian radius of spots, pixels."
  width = 0.0004
    .type = float(value_min=0)
    .help = "Gaussian sigma of the size of lattice points, 1/angstrom."
}

scale_spread = 0.3
  .type = float(value_min=0)
  .help = "Standard deviation of the logarithm of the images' scales; their mean is 1."
air_absorption = 0.0
  .type = float(value_min=0)
  .help = "Linear absorption between sample and detector, 1/mm; dry air at 1 angstrom has about 0.0003."
background_rate = 0.0
  .type = float(value_min=0)
  .help = "Photons per second, in each pixel, that don't come from the crystal."
background_turn = 0.0
  .type = float(value_min=0, value_max=1)
  .help = "The background of rotations varies by this fraction of itself with the cosine of the angle."
background_images = False
  .type = bool
  .help = "Also make the same images without crystal, in the folder background."
"""


def settings_of(params: Any, symmetry: Symmetry, mu_per_mm: Callable[[str, float], float]) -> SimulationSettings:
    """Return what extracted parameters of `PHIL` describe.

    Args:
        params: extracted.
        symmetry: of `params.crystal.space_group`.
        mu_per_mm: linear absorption of a material at a wavelength in angstrom.

    Raises:
        ConfigError: values that can't be used, or that contradict each other.
    """
    cell = as_cell(params.crystal.unit_cell.parameters())
    bragg, diffuse = params.bragg, params.diffuse
    radial, tangential = _correlation(diffuse.correlation, cell)
    return SimulationSettings(
        n_images=params.images,
        counts_per_pixel=params.counts_per_pixel,
        cell=cell,
        symmetry=symmetry,
        detector=_detector(params.detector, params.beam, mu_per_mm),
        diffuse=DiffuseParameters(
            halo=diffuse.halo,
            cloud=diffuse.cloud,
            water=diffuse.water,
            displacement=diffuse.displacement,
            correlation_radial=radial,
            correlation_tangential=tangential,
        ),
        bragg=BraggParameters(
            photons=bragg.photons,
            b_factor=bragg.b_factor,
            spot_sigma_px=bragg.spot_sigma,
            mosaicity_deg=params.crystal.mosaicity,
            width=bragg.width,
        ),
        exposure_s=params.exposure_time,
        scale_spread=params.scale_spread,
        offset=diffuse.offset,
        air_per_mm=params.air_absorption,
        background_rate=params.background_rate,
        seed=params.seed,
        rotation=_rotation(params.rotation),
        background_turn=params.background_turn,
    )


def _rotation(rotation: Any) -> RotationSettings | None:
    if not rotation.width:
        return None
    return RotationSettings(rotation.width, rotation.start, rotation.sweeps, rotation.drift, rotation.scale_spread)


def _correlation(lengths: Any, cell: Cell) -> tuple[float, float]:
    edge = 1 / np.cbrt(np.linalg.det(reciprocal_basis(cell)))
    if isinstance(lengths, list | tuple):
        return float(lengths[0]), float(lengths[1])
    return 0.2 * edge, 0.35 * edge


def _detector(detector: Any, beam: Any, mu_per_mm: Callable[[str, float], float]) -> Detector:
    incident = header_beam(beam.wavelength, beam.polarization)
    sensor = None
    if detector.thickness > 0:
        sensor = Sensor(detector.material, detector.thickness, mu_per_mm(detector.material, beam.wavelength))
    centre = tuple(detector.beam_centre) if detector.beam_centre else None
    if detector.size:
        made = one_panel(tuple(detector.size), detector.distance, incident, centre, sensor)
    else:
        made = pilatus(PILATUS_SIZES[detector.model], detector.distance, incident, centre, sensor)
    return with_beamstop(made, detector.beamstop_radius)
