"""Write one HTML page that shows a run: images, masks, scales, and the map to leaf through.

The page needs nothing but a browser, no network either.

Examples::

  diffuse.report
  diffuse.report diffuse --output map.html
  diffuse.report diffuse --image images/image_0001.cbf
"""

from __future__ import annotations

import argparse
import io
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from diffuse_framework import __version__
from diffuse_framework.adapters.images.masks import read_mask
from diffuse_framework.adapters.images.single_image import read_image
from diffuse_framework.command_line.shared.diagnostics import images_of_run, run_map, save_text
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import start_logs
from diffuse_framework.command_line.shared.reduce import open_sums
from diffuse_framework.config.selection import select
from diffuse_framework.errors import DataError, DiffuseError
from diffuse_framework.io import filenames
from diffuse_framework.io.results import file_stem
from diffuse_framework.io.run_files import read_run_file
from diffuse_framework.model.pixels import CorrectedPixels
from diffuse_framework.pipeline.run import judged
from diffuse_framework.report.image.pictures import Extraction, overlay
from diffuse_framework.report.map.checks import map_checks
from diffuse_framework.report.page.html import Picture, Story, report_page

logger = logging.getLogger("diffuse_framework.look")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        "diffuse.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        default=Path("diffuse"),
        help="output folder of diffuse.process (default: %(default)s)",
    )
    add("--output", type=Path, help="the page (default: report.html in that folder)")
    add("--image", type=Path, help="an image of the run whose mask to show, where it has been moved since")
    add("--no-image", action="store_true", help="leave out the picture of an image and its mask")
    add("-v", "--verbose", action="store_true", help="say more")
    return parser


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.report."""
    options = make_parser().parse_args(args)
    start_logs(options.verbose, None)
    if not options.folder.is_dir():
        raise DataError(f"there is no folder {options.folder}; give the output folder of diffuse.process")
    output = options.output or options.folder / filenames.REPORT
    write_report(options.folder, output, options.image, not options.no_image)
    print(f"The report is in {output} ({output.stat().st_size / 1e6:.1f} MB); open it in any browser")


def write_report(folder: Path, output: Path, image: Path | None = None, with_image: bool = True) -> None:
    """Write the page of the run in `folder`.

    Args:
        folder: output folder of diffuse.process.
        output: the page.
        image: whose mask to show, where it has been moved since.
        with_image: whether to show one.

    Raises:
        DataError: something of the run is missing, or the page can't be written.
    """
    pictures = _masked_image(folder, image) if with_image else []
    save_text(output, report_page(_story(folder, output, pictures)))


def _story(folder: Path, output: Path, pictures: list[Picture]) -> Story:
    data, summary = run_map(folder), _summary(folder)
    checks = map_checks(
        data.grid,
        data.voxel,
        data.intensity,
        data.sigma,
        data.multiplicity,
        (data.scales, data.scales_sigma, data.statistics),
    )
    return Story(
        title=f"Diffuse scattering: {folder.resolve().name}",
        map=data,
        summary=summary,
        checks=checks,
        files=_files(folder, output),
        pictures=pictures,
        merging=_merging(folder),
        absolute=_optional(folder / filenames.ABSOLUTE_SCALE),
        verdict=summary.get("verdict") or {},
        version=__version__,
        made=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_run_file(path) if path.is_file() else {}


def _merging(folder: Path) -> dict[str, Any]:
    """Return the agreement of half data sets as diffuse.stats left it since the last scaling."""
    written, scales = folder / filenames.STATISTICS, folder / filenames.SCALES
    return read_run_file(written) if written.is_file() and written.stat().st_mtime >= scales.stat().st_mtime else {}


def _summary(folder: Path) -> dict[str, Any]:
    """Return what the run says of itself, with the verdict on its map: worked out here where a run left none."""
    summary = _optional(folder / filenames.SUMMARY)
    if "verdict" in summary or not (folder / filenames.SUMS).is_file():
        return summary
    try:
        opened = open_sums([str(folder / filenames.SUMS)], None, "diffuse.stats", "", "", ("merger",), log=False)
        if opened is None:
            return summary
        return summary | judged(opened.sums, opened.scales(), select(opened.registry, opened.params, "merger"))
    except DiffuseError as error:
        logger.warning("No verdict on the map: %s", error)
        return summary


def _files(folder: Path, output: Path) -> list[tuple[str, str, str, int]]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.resolve() != output.resolve() and not path.name.startswith("."):
            link = quote(os.path.relpath(path, output.resolve().parent))
            what = filenames.MEANINGS.get(path.name, "log" if path.suffix == ".log" else "")
            found.append((path.name, link, what, path.stat().st_size))
    return found


def _masked_image(folder: Path, image: Path | None) -> list[Picture]:
    """Return a picture of an image with its mask, if both are there."""
    known = {image.name: image} if image else images_of_run(folder)
    masked = [(path, *_masks_of(folder, name)) for name, path in known.items()]
    masked = [files for files in masked if all(file.is_file() for file in files[1:])]
    if not masked:
        if image:
            raise DataError(
                f"{folder / 'images'} has no masks of {image.name}; diffuse.process output.masks=all keeps all"
            )
        logger.info("No picture of an image: no image of the run is where it was, or no mask was kept")
        return []
    path, total, trusted = masked[0]
    frame, geometry, _ = read_image(path, folder / filenames.INDEXED)
    photons = tuple(
        (values - panel.pedestal) / panel.gain for values, panel in zip(frame.counts, geometry.panels, strict=True)
    )
    nothing = np.zeros(0)
    no_pixels = CorrectedPixels(np.zeros((0, 3)), nothing, nothing, nothing, nothing, nothing)
    data = Extraction(frame.name, photons, read_mask(total), read_mask(trusted), None, None, no_pixels, False)
    png = io.BytesIO()
    overlay(data).savefig(png, format="png", dpi=90, bbox_inches="tight")
    caption = (
        "Blue pixels count as diffuse, red ones as Bragg peaks; white ones are not used. On the right a part of it."
    )
    return [Picture(f"{frame.name} and its mask", caption, png.getvalue())]


def _masks_of(folder: Path, name: str) -> tuple[Path, Path]:
    stem = folder / filenames.IMAGES / file_stem(name)
    return Path(f"{stem}_total_diffuse_mask.pickle"), Path(f"{stem}_pixel_mask.pickle")


if __name__ == "__main__":
    run()
