"""Images as mini-CBF files of a PILATUS, as `dials.import` reads them.

Format: Dectris, PILATUS CBF header specification 1.4; byte offsets as in the imgCIF dictionary,
``_array_structure.encoding_type x-CBF_BYTE_OFFSET``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from diffuse_framework.errors import ConfigError
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.source import ImageSource
from diffuse_framework.simulate.detector import HIGHEST_COUNT, PILATUS_SIZES, modules_of

_SENSORS = {"Si": "Silicon", "CdTe": "CdTe"}
_PADDING = 4095

_HEADER = """\
###CBF: VERSION 1.5, written by diffuse.simulate

data_{block}

_array_data.header_convention "{convention}"
_array_data.header_contents
;
# Detector: {detector}
# 2000-01-01T00:00:00.000
# Pixel_size {pixel_m[0]:.10g} m x {pixel_m[1]:.10g} m
{sensor}# Exposure_time {seconds:.10g} s
# Exposure_period {seconds:.10g} s
# Tau = 0 s
# Count_cutoff {cutoff} counts
# Threshold_setting: {threshold_ev:.0f} eV
# Gain_setting: autog (vrf = 1.000)
# N_excluded_pixels = 0
# Excluded_pixels: (nil)
# Flat_field: (nil)
# Trim_file: (nil)
# Image_path: (nil)
# Wavelength {wavelength:.12g} A
# Energy_range (0, 0) eV
# Detector_distance {distance_m:.12g} m
# Detector_Voffset 0.00000 m
# Beam_xy ({centre[0]:.10g}, {centre[1]:.10g}) pixels
# Flux 0.0
# Filter_transmission 1.0000
# Start_angle {start_deg:.10g} deg.
# Angle_increment {width_deg:.10g} deg.
# Detector_2theta 0.0000 deg.
# Polarization {polarization:.6g}
# Alpha 0.0000 deg.
# Kappa 0.0000 deg.
# Phi {start_deg:.10g} deg.
# Phi_increment {width_deg:.10g} deg.
# Chi 0.0000 deg.
# Chi_increment 0.0000 deg.
# Oscillation_axis X.CW
# N_oscillations 1
;

_array_data.data
;
--CIF-BINARY-FORMAT-SECTION--
Content-Type: application/octet-stream;
     conversions="x-CBF_BYTE_OFFSET"
Content-Transfer-Encoding: BINARY
X-Binary-Size: {n_bytes}
X-Binary-ID: 1
X-Binary-Element-Type: "signed 32-bit integer"
X-Binary-Element-Byte-Order: LITTLE_ENDIAN
Content-MD5: {md5}
X-Binary-Number-of-Elements: {n_pixels}
X-Binary-Size-Fastest-Dimension: {n_fast}
X-Binary-Size-Second-Dimension: {n_slow}
X-Binary-Size-Padding: {padding}

"""


def write_cbf(
    path: Path,
    name: str,
    counts: np.ndarray,
    geometry: Geometry,
    exposure_s: float,
    start_deg: float = 0.0,
    width_deg: float = 0.0,
) -> None:
    """Write one image.

    Args:
        path: of the file.
        name: of the image.
        counts: (slow, fast) integers, -1 where there is no pixel.
        geometry: one panel across the beam, as `detector.pilatus` and `detector.one_panel` make.
        exposure_s: exposure time in seconds.
        start_deg, width_deg: angle of the goniometer at the beginning, and by which it turns.

    Raises:
        ConfigError: a geometry that a mini-CBF header can't describe.
        OSError: the file can't be written.
    """
    packed = compress(counts)
    header = _header(Path(name).stem, packed, geometry, exposure_s, start_deg, width_deg)
    with open(path, "wb") as file:
        file.write(header.replace("\n", "\r\n").encode("ascii", "replace"))
        file.write(b"\x0c\x1a\x04\xd5")
        file.write(packed)
        file.write(bytes(_PADDING))
        file.write(b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n")


@dataclass(frozen=True)
class ImageWriter:
    """Writes images of a source as mini-CBF files; work for an engine.

    Attributes:
        source: whose images have one panel; their names become file names.
        folder: where the files go.
        writing: a context manager that takes a path and gives the one to write to, so that files
            appear whole.
        starts_deg: angle at which each image begins; empty for stills.
        width_deg: of an image.
    """

    source: ImageSource
    folder: Path
    writing: Callable[[Path], AbstractContextManager[Path]]
    starts_deg: tuple[float, ...] = ()
    width_deg: float = 0.0

    def __call__(self, index: int) -> Path:
        """Write image number `index` and return its path.

        Raises:
            ConfigError: more panels than one, or a geometry that a header can't describe.
        """
        frame = self.source.read(index)
        path = self.folder / frame.name
        with self.writing(path) as unfinished:
            write_cbf(
                unfinished,
                frame.name,
                frame.counts[0],
                self.source.geometry(index),
                self.source.exposure_s(index),
                self.starts_deg[index] if self.starts_deg else 0.0,
                self.width_deg,
            )
        return path


def compress(values: np.ndarray) -> bytes:
    """Return integers (slow, fast) as byte offsets."""
    values = np.ascontiguousarray(values, np.int32).ravel()
    # A step takes no more than 7 bytes.
    packed = np.empty(7 * len(values), np.uint8)
    return packed[: _byte_offsets(values, packed)].tobytes()


def _header(
    block: str, packed: bytes, geometry: Geometry, exposure_s: float, start_deg: float, width_deg: float
) -> str:
    if len(geometry.panels) != 1:
        raise ConfigError(f"a mini-CBF file holds one panel, this detector has {len(geometry.panels)}")
    (panel,) = geometry.panels
    flat = np.allclose(panel.fast_axis, [1, 0, 0]) and np.allclose(panel.slow_axis, [0, -1, 0])
    if not flat or not np.allclose(geometry.beam.s0[:2], 0):
        raise ConfigError("a mini-CBF header holds detectors across the beam only")
    modules = modules_of(panel.shape[::-1])
    sensor = ""
    if panel.thickness_mm > 0:
        sensor = f"# {_SENSORS[panel.material]} sensor, thickness {panel.thickness_mm / 1000:.10g} m\n"
    wavelength = geometry.beam.wavelength
    return _HEADER.format(
        block=block,
        # dxtbx takes other sizes for no PILATUS, but for a detector of its own.
        convention="PILATUS_1.2" if modules else "GENERIC_MINI",
        detector=_detector_name(modules),
        pixel_m=[size / 1000 for size in panel.pixel_size_mm],
        sensor=sensor,
        seconds=exposure_s,
        start_deg=start_deg,
        width_deg=width_deg,
        cutoff=HIGHEST_COUNT,
        threshold_ev=12398.42 / wavelength / 2,
        wavelength=wavelength,
        distance_m=-panel.origin_mm[2] / 1000,
        centre=[-panel.origin_mm[0] / panel.pixel_size_mm[0], panel.origin_mm[1] / panel.pixel_size_mm[1]],
        polarization=geometry.beam.polarization_fraction,
        n_bytes=len(packed),
        md5=base64.b64encode(hashlib.md5(packed, usedforsecurity=False).digest()).decode(),
        n_pixels=geometry.n_pixels,
        n_fast=panel.shape[1],
        n_slow=panel.shape[0],
        padding=_PADDING,
    )


def _detector_name(modules: tuple[int, int] | None) -> str:
    if modules is None:
        return "GENERIC, S/N 00-0000"
    sizes = {of: name for name, of in PILATUS_SIZES.items()}
    return f"PILATUS3 {sizes.get(modules, f'{modules[0]}x{modules[1]}')}, S/N 00-0000"


@njit(cache=True)
def _byte_offsets(values, packed):
    """Fill `packed` with the steps between neighbouring values; return the bytes used.

    A step is one byte; 0x80 announces two bytes, and 0x8000 in these four.
    """
    last = np.int64(0)
    n = 0
    for value in values:
        step = np.int64(value) - last
        last = np.int64(value)
        if -127 <= step <= 127:
            packed[n] = step & 0xFF
            n += 1
            continue
        packed[n] = 0x80
        n += 1
        if -32767 <= step <= 32767:
            packed[n] = step & 0xFF
            packed[n + 1] = (step >> 8) & 0xFF
            n += 2
            continue
        packed[n] = 0x00
        packed[n + 1] = 0x80
        n += 2
        for byte in range(4):
            packed[n + byte] = (step >> (8 * byte)) & 0xFF
        n += 4
    return n
