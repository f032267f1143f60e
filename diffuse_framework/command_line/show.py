"""Say in words what a file of a run holds.

Examples::

  diffuse.show diffuse
  diffuse.show diffuse/sums.h5 diffuse/voxel_data_relative.npz
  diffuse.show diffuse/images/*_mask.pickle
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tabulate import tabulate

from diffuse_framework.adapters.images.masks import read_mask
from diffuse_framework.command_line.shared.diagnostics import read_scaling
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.errors import DataError
from diffuse_framework.io.inputs import read_arrays, read_grid, read_json
from diffuse_framework.io.run_files import check_summary
from diffuse_framework.io.sums_store import FORMAT, StoredSums
from diffuse_framework.report.map.pictures import grid_text


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "diffuse.show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="files of a run, or its folder")
    return parser


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.show."""
    options = make_parser().parse_args(args)
    for path in _expanded(options.files):
        print(f"{path}\n{_indented(describe(path))}\n")


def _expanded(paths: list[Path]) -> list[Path]:
    """Replace folders by the files in them that we know; refuse what is not there."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in _READERS)
            if not inside:
                raise DataError(f"{path} holds no file of a run of diffuse.process")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"there is no file {path}")
    return found


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.rstrip().splitlines())


def describe(path: Path) -> str:
    """Return what a file holds, in words.

    Raises:
        DataError: it can't be read, or is no file of a run.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: files of a run end in {', '.join(_READERS)}; dials.show reads .expt and .refl")
    return reader(path)


def _npz(path: Path) -> str:
    arrays = read_arrays(path, ())
    if "voxel_indices" in arrays:
        return _voxels(arrays)
    if "q_vectors" in arrays:
        return _pixels(arrays)
    return _table(arrays)


def _voxels(arrays: dict[str, np.ndarray]) -> str:
    n = len(arrays["voxel_indices"])
    kind = "absolute" if "I_abs_diffuse" in arrays else "relative"
    intensity, sigma = (
        ("I_abs_diffuse", "Sigma_abs_diffuse") if kind == "absolute" else ("I_merged_relative", "Sigma_merged_relative")
    )
    lines = [
        f"A merged map on {'an absolute' if kind == 'absolute' else 'a relative'} scale: {n} voxels that were observed."
    ]
    if n and intensity in arrays and sigma in arrays:
        values, errors = arrays[intensity], arrays[sigma]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.nanmedian(values / errors)
        lines.append(
            f"Intensity: mean {values.mean():.5g}, median {np.median(values):.5g}; median I/sigma {precision:.3g}."
        )
    if n and "q_magnitude_center" in arrays:
        q = arrays["q_magnitude_center"]
        lines.append(
            f"|q| = 1/d from {q.min():.4f} to {q.max():.4f} 1/A, highest resolution {1 / max(q.max(), 1e-9):.2f} A."
        )
    if n and "num_observations" in arrays:
        m = arrays["num_observations"]
        lines.append(f"Observations per voxel: {m.min()} to {m.max()}, mean {m.mean():.2f}.")
    if "Scale_Abs" in arrays:
        lines.append(f"Scale: {float(arrays['Scale_Abs']):.5g} electron units per relative unit.")
    return "\n".join([*lines, "", _table(arrays)])


def _pixels(arrays: dict[str, np.ndarray]) -> str:
    intensity, q = arrays["intensities"], np.linalg.norm(arrays["q_vectors"], axis=-1)
    name = f" of {arrays['still_identifier']}" if "still_identifier" in arrays else ""
    lines = [f"Corrected diffuse pixels{name}: {len(intensity)}."]
    if len(intensity):
        lines.append(f"Intensity in photons / s sr: mean {intensity.mean():.5g}, median {np.median(intensity):.5g}.")
        lines.append(f"|q| = 1/d from {q.min():.4f} to {q.max():.4f} 1/A.")
    where = "original_fast_coords" in arrays
    lines.append(
        "The file holds the detector coordinates of each pixel." if where else "The file holds no detector coordinates."
    )
    return "\n".join([*lines, "", _table(arrays)])


def _table(arrays: dict[str, Any]) -> str:
    rows = [
        (
            name,
            " x ".join(map(str, np.shape(values))) or "one value",
            str(np.asarray(values).dtype),
            _range(values),
        )
        for name, values in arrays.items()
    ]
    return tabulate(rows, ("array", "shape", "type", "range"), "simple")


def _range(values: Any) -> str:
    values = np.asarray(values)
    if values.dtype.kind not in "iuf" or values.size == 0:
        return str(values) if values.size == 1 else ""
    finite = values[np.isfinite(values)]
    return f"{finite.min():.5g} to {finite.max():.5g}" if finite.size else "no number"


def _hdf5(path: Path) -> str:
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") == FORMAT:
                return _sums(path)
            if "entry/map" in file:
                return _nexus(file)
    except OSError as error:
        raise DataError(f"can't read {path}: {error}") from error
    return _table(read_arrays(path, ()))


def _sums(path: Path) -> str:
    sums = StoredSums(path)
    counts, bragg, pixels, n_rows = 0.0, 0.0, 0, 0
    for table in sums.tables():
        n_rows += len(table)
        counts += float(table.counts.sum(dtype=float))
        bragg += float(table.bragg_counts.sum(dtype=float))
        pixels += int(table.pixels.sum())
    names = sums.image_names
    return (
        f"Sums over pixels, per image and voxel: {n_rows} rows of {len(names)} images ({names[0]} to "
        f"{names[-1]}).\n"
        f"{counts:.0f} photons in {pixels} diffuse pixels, and {bragg:.0f} in pixels of Bragg peaks.\n"
        f"diffuse.scale and diffuse.merge start from this file.\n\n{grid_text(sums.grid)}"
    )


def _nexus(file: h5py.File) -> str:
    data = file["entry/map"]
    lines = [f"NeXus: {file['entry/title'].asstr()[()] if 'title' in file['entry'] else 'a map'}."]
    if "sample" in file["entry"]:
        cell = " ".join(f"{x:.3f}" for x in file["entry/sample/unit_cell"][()])
        lines.append(f"Unit cell {cell}, space group {file['entry/sample/space_group'].asstr()[()]}.")
    rows = []
    for name, values in data.items():
        content = values[()]
        seen = f"{np.isfinite(content).mean():.1%} known" if content.dtype.kind == "f" and content.ndim == 3 else ""
        unit = values.attrs.get("units", "")
        rows.append((name, " x ".join(map(str, content.shape)), unit, _range(content), seen))
    return "\n".join([*lines, "", tabulate(rows, ("field", "shape", "units", "range", ""), "simple")])


def _json(path: Path) -> str:
    content = read_json(path)
    if "crystal_avg_ref" in content:
        return grid_text(read_grid(path))
    if "refined_parameters" in content:
        scales, sigma, names, statistics, smoother = read_scaling(path)
        fit = ", ".join(f"{k} {v:.4g}" for k, v in statistics.items() if isinstance(v, int | float) and v is not True)
        return (
            f"Scales of {len(scales)} images ({names[0]} to {names[-1]}): {scales.min():.4f} to {scales.max():.4f}, "
            f"mean {scales.mean():.4f}, typical uncertainty {np.nanmedian(sigma):.2g}.\n"
            f"Resolution smoother: {f'{len(smoother)} control points' if len(smoother) else 'off'}.\n"
            f"Fit: {fit}."
        )
    if content.get("images") and content.get("map"):
        check_summary(path, content)
        return _summary(content)
    return "JSON with " + ", ".join(content)


def _summary(content: dict[str, Any]) -> str:
    images, merged = content["images"], content["map"]
    lines = [f"A run on {images['given']} images: {images['used']} used, {images['rejected']} rejected."]
    lines += [f"  {r['name']} at {r['stage']}: {r['reason']}" for r in (images.get("rejected_images") or [])[:20]]
    if content.get("unit_cell"):
        cell = " ".join(f"{x:.3f}" for x in content["unit_cell"]["median"])
        lines.append(f"Median cell {cell}, {content['unit_cell']['space_group']}.")
    lines.append(
        f"{merged['voxels_observed']} of {merged['voxels_in_asymmetric_unit']} voxels ({merged['completeness']:.1%}) "
        f"from {merged['pixels']} pixels and {merged['photons']:.0f} photons."
    )
    if content.get("verdict"):
        lines.append(f"Verdict: {content['verdict']['sentence']}.")
    for name, version in ((content.get("run") or {}).get("versions") or {}).items():
        lines.append(f"{name} {version}")
    return "\n".join(lines)


def _mask(path: Path) -> str:
    panels = read_mask(path)
    total, used = sum(p.size for p in panels), sum(int(p.sum()) for p in panels)
    shapes = sorted({f"{p.shape[1]} x {p.shape[0]}" for p in panels})
    return (
        f"A mask of {len(panels)} panel{'s' if len(panels) > 1 else ''} of {' or '.join(shapes)} pixels (fast x slow): "
        f"{used} of {total} pixels are True ({used / total:.1%})."
    )


_READERS: dict[str, Callable[[Path], str]] = {
    ".npz": _npz,
    ".nxs": _hdf5,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".json": _json,
    ".pickle": _mask,
    ".mask": _mask,
}

if __name__ == "__main__":
    run()
