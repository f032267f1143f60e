"""All that is known of a simulated data set, and the file that keeps it.

Expected photons of pixel p on image i are

    N = K b_i t Omega_p P_p E_p T_p [I(hkl) + c_i(|q|)] + Bragg peaks + background t

with K = `photons_per_unit`, b = `scales`, t = `exposure_s`, I = `intensity.diffuse`, c = `offset`. A map
that was merged to scales of mean 1 in photons per second and steradian therefore expects K I.

``truth.h5`` is an HDF5 file with NeXus classes:

    /entry                         NXentry
      @photons_per_unit @exposure_s @air_per_mm @background_rate @seed @counts_per_pixel
      /sample                      NXsample: unit_cell (6), space_group, laue_group,
                                   operators (n, 3, 3), asu_matrix (3, 3)
      /intensity                   NXcollection: lattice_hkl (n, 3), f_squared (n), cloud (n)
        @d_min and the fields of `intensity.DiffuseParameters`
      /bragg                       NXcollection: attributes are the fields of `intensity.BraggParameters`
      /images                      NXcollection: name, scale, offset (n), setting_matrix (n, 3, 3);
                                   of rotations angle and sweep (n) and @width, @background_turn
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Rotation, Symmetry
from diffuse_framework.simulate.crystals import as_cell
from diffuse_framework.simulate.intensity import BraggParameters, DiffuseParameters, TrueIntensity
from diffuse_framework.simulate.rotation import AXIS

_NUMBERS = {
    "photons_per_unit": float,
    "exposure_s": float,
    "air_per_mm": float,
    "background_rate": float,
    "seed": int,
    "counts_per_pixel": float,
}


@dataclass(frozen=True, eq=False)
class Truth:
    """A crystal, and the scale, offset and orientation of each image of it.

    Attributes:
        intensity: of the crystal.
        bragg: how its peaks look.
        names: (n_images) of the images.
        scales: (n_images,) b_i, mean 1.
        offsets: (n_images,) amplitude of c_i, smallest 0.
        setting_matrices: (n_images, 3, 3) A = U B in 1/angstrom, ``q = A hkl`` in the laboratory.
        exposure_s: seconds, each image.
        photons_per_unit: K, photons per second, steradian and unit of intensity.
        air_per_mm: linear absorption between sample and detector.
        background_rate: photons per second in each pixel that don't come from the crystal.
        seed: of the noise.
        counts_per_pixel: mean diffuse photons that K was chosen for.
        width_deg: degrees an image turns, 0 for stills.
        angles_deg, sweep: (n_images,) angle of the goniometer at the middle of each image and
            number of its sweep; None for stills.
        background_turn: the background of rotations varies by this part of itself with the cosine
            of the angle, as that of a capillary does.
    """

    intensity: TrueIntensity
    bragg: BraggParameters
    names: tuple[str, ...]
    scales: np.ndarray
    offsets: np.ndarray
    setting_matrices: np.ndarray
    exposure_s: float = 0.1
    photons_per_unit: float = 1.0
    air_per_mm: float = 0.0
    background_rate: float = 0.0
    seed: int = 0
    counts_per_pixel: float = 1.0
    width_deg: float = 0.0
    angles_deg: np.ndarray | None = None
    sweep: np.ndarray | None = None
    background_turn: float = 0.0

    def rotation(self, index: int) -> Rotation | None:
        """Return how the crystal turned while image number `index` was taken, None for a still."""
        if self.angles_deg is None or self.sweep is None:
            return None
        return Rotation(AXIS, float(self.angles_deg[index]), self.width_deg, int(self.sweep[index]))

    def background(self, index: int) -> float:
        """Return the photons per second in each pixel of image `index` that don't come from the crystal."""
        if self.angles_deg is None:
            return self.background_rate
        turned = 1 + self.background_turn * np.cos(np.radians(self.angles_deg[index]))
        return self.background_rate * float(turned)

    def offset(self, index: int, q: np.ndarray) -> np.ndarray:
        """Return c (...) of image number `index` at |q| (...) in 1/angstrom, in units of I."""
        return self.offsets[index] * np.exp(-0.5 * np.square(q / 0.25))

    def save(self, path: str | Path) -> None:
        """Write ``truth.h5``.

        Raises:
            OSError: it can't be written.
        """
        import h5py

        with h5py.File(path, "w") as file:
            self._write(file)

    def _write(self, file) -> None:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        for name in _NUMBERS:
            entry.attrs[name] = getattr(self, name)
        crystal = self.intensity
        sample = _group(entry, "sample", "NXsample")
        sample["unit_cell"] = np.array(crystal.cell)
        sample["space_group"] = crystal.symmetry.space_group
        sample["laue_group"] = crystal.symmetry.laue_group
        sample["operators"] = crystal.symmetry.operators
        sample["asu_matrix"] = crystal.symmetry.asu_matrix
        intensity = _group(entry, "intensity", "NXcollection")
        intensity.attrs["d_min"] = crystal.d_min
        intensity.attrs.update(asdict(crystal.parameters))
        for name in ("lattice_hkl", "f_squared", "cloud"):
            intensity.create_dataset(name, data=getattr(crystal, name), compression="gzip", shuffle=True)
        _group(entry, "bragg", "NXcollection").attrs.update(asdict(self.bragg))
        images = _group(entry, "images", "NXcollection")
        images["name"] = [name.encode() for name in self.names]
        images["scale"] = self.scales
        images["offset"] = self.offsets
        images["setting_matrix"] = self.setting_matrices
        images["setting_matrix"].attrs["units"] = "1/angstrom"
        if self.angles_deg is not None:
            images["angle"] = self.angles_deg
            images["sweep"] = self.sweep
            images.attrs["width"] = self.width_deg
            images.attrs["background_turn"] = self.background_turn


def load(path: str | Path) -> Truth:
    """Read what `Truth.save` wrote.

    Raises:
        DataError: the file isn't there, or isn't the truth of a simulation.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            return _read(file["entry"])
    except (OSError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a truth.h5 of diffuse.simulate ({error})") from error


def _read(entry) -> Truth:
    sample, intensity, images = entry["sample"], entry["intensity"], entry["images"]
    symmetry = Symmetry(
        space_group=sample["space_group"].asstr()[()],
        laue_group=sample["laue_group"].asstr()[()],
        operators=sample["operators"][()],
        asu_matrix=sample["asu_matrix"][()],
    )
    return Truth(
        intensity=TrueIntensity(
            cell=as_cell(sample["unit_cell"]),
            symmetry=symmetry,
            d_min=float(intensity.attrs["d_min"]),
            parameters=_parameters(DiffuseParameters, intensity.attrs),
            lattice_hkl=intensity["lattice_hkl"][()],
            f_squared=intensity["f_squared"][()],
            cloud=intensity["cloud"][()],
        ),
        bragg=_parameters(BraggParameters, entry["bragg"].attrs),
        names=tuple(images["name"].asstr()[()]),
        scales=images["scale"][()],
        offsets=images["offset"][()],
        setting_matrices=images["setting_matrix"][()],
        width_deg=float(images.attrs.get("width", 0.0)),
        angles_deg=images["angle"][()] if "angle" in images else None,
        sweep=images["sweep"][()] if "sweep" in images else None,
        background_turn=float(images.attrs.get("background_turn", 0.0)),
        **{name: kind(entry.attrs[name]) for name, kind in _NUMBERS.items()},
    )


def _group(parent, name: str, nexus_class: str):
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    return group


def _parameters(kind: type, attributes):
    return kind(**{field.name: float(attributes[field.name]) for field in fields(kind)})
