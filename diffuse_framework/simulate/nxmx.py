"""Images as HDF5 files of an EIGER, as `dials.import` reads them: a master, and the pixels in files beside it.

Format: NeXus application definition NXmx. Pixels are compressed image by image with bitshuffle and LZ4, as the
file writers of DECTRIS do; the master shows those of all files as one virtual data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffuse_framework.errors import ConfigError
from diffuse_framework.model.geometry import Geometry

# NeXus looks along the beam from above, x to the left; here x goes to the right and z to the source.
_TO_NEXUS = np.diag([-1.0, 1.0, -1.0])
_DATA = "entry/data/data"


@dataclass(frozen=True, eq=False)
class SeriesWriter:
    """Writes a series of images as one NXmx master and files of pixels.

    Attributes:
        geometry: of one panel.
        exposure_s: of each image, seconds.
        writing: a context manager that takes a path and gives the one to write to, so that files appear whole.
        compression: of pixels, as keywords of h5py's `create_dataset`.
        starts_deg: angle at which each image begins; empty for stills.
        width_deg: of an image.
        axis: about which the crystal turns, (3,).
        per_file: most images in a file of pixels.
        dtype: of pixels, uint16 or uint32; its highest value stands where there is no pixel.
    """

    geometry: Geometry
    exposure_s: float
    writing: Callable[[Path], AbstractContextManager[Path]]
    compression: dict[str, Any]
    starts_deg: tuple[float, ...] = ()
    width_deg: float = 0.0
    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)
    per_file: int = 1000
    dtype: type = np.uint32

    def __call__(self, master: Path, images: Iterable[np.ndarray]) -> None:
        """Write images of integers (slow, fast), -1 where there is no pixel, as ``x_master.h5`` and ``x_data_*.h5``.

        Raises:
            ConfigError: more panels than one, or a name that does not end in ``_master.h5``.
            OSError: a file can't be written.
        """
        if len(self.geometry.panels) != 1:
            raise ConfigError(f"an NXmx series is written of one panel, this detector has {len(self.geometry.panels)}")
        if not master.name.endswith("_master.h5"):
            raise ConfigError(f"{master.name}: the master of a series is called ..._master.h5")
        images = iter(images)
        parts: list[tuple[str, int]] = []
        gaps = np.zeros(self.geometry.panels[0].shape, bool)
        while block := list(islice(images, 1)):
            if not parts:
                gaps = block[0] < 0
            path = master.with_name(f"{master.name.removesuffix('_master.h5')}_data_{len(parts) + 1:06d}.h5")
            with self.writing(path) as unfinished:
                parts.append((path.name, self._pixels(unfinished, _chain(block, islice(images, self.per_file - 1)))))
        with self.writing(master) as unfinished, h5py.File(unfinished, "w") as file:
            self._describe(file, parts, gaps)

    def _pixels(self, path: Path, images: Iterable[np.ndarray]) -> int:
        """Write one file of pixels; return the number of its images."""
        shape, top = self.geometry.panels[0].shape, np.iinfo(self.dtype).max
        n = 0
        with h5py.File(path, "w") as file:
            data = file.create_dataset(
                _DATA, (0, *shape), self.dtype, chunks=(1, *shape), maxshape=(None, *shape), **self.compression
            )
            for n, counts in enumerate(images, 1):
                data.resize(n, axis=0)
                # The value below the highest marks too many photons.
                # numpy 2 refuses a number that the images' own type can't hold, such as the highest of uint32 in int32.
                counts = counts.astype(np.int64)
                data[n - 1] = np.where(counts < 0, top, np.minimum(counts, top - 1)).astype(self.dtype)
        return n

    def _describe(self, file: h5py.File, parts: list[tuple[str, int]], gaps: np.ndarray) -> None:
        (panel,), beam = self.geometry.panels, self.geometry.beam
        n_images, shape, bits = sum(n for _, n in parts), panel.shape, np.iinfo(self.dtype).bits
        layout, start = h5py.VirtualLayout((n_images, *shape), self.dtype), 0
        for name, n in parts:
            layout[start : start + n] = h5py.VirtualSource(name, _DATA, (n, *shape))
            start += n

        entry = _group(file, "entry", "NXentry")
        entry["definition"] = _text("NXmx")
        data = _group(entry, "data", "NXdata")
        data.attrs["signal"] = _text("data")
        data.create_virtual_dataset("data", layout)

        instrument = _group(entry, "instrument", "NXinstrument")
        instrument["name"] = _text("diffuse.simulate")
        wavelength = _group(instrument, "beam", "NXbeam").create_dataset("incident_wavelength", data=beam.wavelength)
        wavelength.attrs["units"] = _text("angstrom")

        detector = _group(instrument, "detector", "NXdetector")
        detector["depends_on"] = _text("/entry/instrument/detector/transformations/translation")
        detector["description"] = _text("simulated")
        detector["bit_depth_readout"] = bits
        detector["saturation_value"] = int(min(panel.trusted_range[1], np.iinfo(self.dtype).max - 2))
        detector["underload_value"] = 0
        detector["sensor_material"] = _text(panel.material or "Si")
        # Bit 0: a pixel without sensor.
        detector.create_dataset("pixel_mask", data=gaps.astype(np.uint32), compression="gzip", compression_opts=1)
        for name, value, unit in (
            ("sensor_thickness", panel.thickness_mm / 1000, "m"),
            ("frame_time", self.exposure_s, "s"),
            ("count_time", self.exposure_s, "s"),
        ):
            detector[name] = value
            detector[name].attrs["units"] = _text(unit)
        moves = _group(detector, "transformations", "NXtransformations")
        origin = _TO_NEXUS @ panel.origin_mm / 1000
        _axis(moves, "translation", np.linalg.norm(origin), "m", origin / np.linalg.norm(origin), ".")

        module = _group(detector, "module", "NXdetector_module")
        module["data_origin"], module["data_size"] = np.zeros(2, int), np.array(shape)
        above = "/entry/instrument/detector/transformations/translation"
        _axis(module, "module_offset", 0.0, "m", (1, 0, 0), above)
        for name, direction, size in (
            ("fast_pixel_direction", panel.fast_axis, panel.pixel_size_mm[0]),
            ("slow_pixel_direction", panel.slow_axis, panel.pixel_size_mm[1]),
        ):
            above = "/entry/instrument/detector/module/module_offset"
            _axis(module, name, size / 1000, "m", _TO_NEXUS @ direction, above)

        sample = _group(entry, "sample", "NXsample")
        sample["depends_on"] = _text("/entry/sample/transformations/omega")
        # Stills too: of a sample that nothing holds dxtbx reads no times.
        starts = np.array(self.starts_deg or [0.0] * n_images, float)
        turns = _group(sample, "transformations", "NXtransformations")
        _axis(turns, "omega", starts, "deg", _TO_NEXUS @ np.array(self.axis), ".", "rotation")
        turns["omega_end"] = starts + self.width_deg
        turns["omega_end"].attrs["units"] = _text("deg")


def _chain(first: list[np.ndarray], rest: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    yield from first
    yield from rest


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = _text(nx_class)
    return group


def _text(text: str) -> np.bytes_:
    """Return text of fixed length, as file writers leave it: some readers know no other."""
    return np.bytes_(text)


def _axis(
    parent: h5py.Group,
    name: str,
    values: float | np.floating | np.ndarray,
    units: str,
    vector: Sequence[float] | np.ndarray,
    depends_on: str,
    kind: str = "translation",
) -> None:
    axis = parent.create_dataset(name, data=values)
    axis.attrs.update(
        {
            "depends_on": _text(depends_on),
            "offset": np.zeros(3),
            "offset_units": _text("m"),
            "transformation_type": _text(kind),
            "units": _text(units),
            "vector": np.asarray(vector, float),
        }
    )
