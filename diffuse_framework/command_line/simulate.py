"""Simulate images, stills or rotations, of a crystal whose diffuse scattering is known.

Images are PILATUS mini-CBF files, or HDF5 files as an EIGER's, with Poisson noise, Bragg peaks
that DIALS can index, gaps between modules and a different scale for each image. Beside them are
left truth.h5 (the true intensity, scales and orientations), truth.expt and truth.refl (the true
models, for processing without indexing).

Examples::

  diffuse.simulate
  diffuse.simulate images=180 rotation.width=1 rotation.sweeps=2
  diffuse.simulate images=180 rotation.width=1 output.format=nxmx
  diffuse.simulate images=50 counts_per_pixel=0.1 detector.model=2M output.directory=dim
  diffuse.simulate crystal.unit_cell=58,58,150,90,90,90 crystal.space_group=P41212 detector.distance=200
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser
from iotbx.phil import parse
from libtbx import Auto

from diffuse_framework.adapters.images.hdf5 import bitshuffle_lz4
from diffuse_framework.adapters.models.simulated import (
    Extinctions,
    write_models,
    write_sweep_models,
)
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.adapters.tables.attenuation import sensor_mu_per_mm
from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import log_start, start_logs
from diffuse_framework.engine.base import Engine, SerialEngine
from diffuse_framework.engine.processes import available_cpus, process_engine
from diffuse_framework.errors import DataError
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import make_folder, writing
from diffuse_framework.simulate.cbf import ImageWriter
from diffuse_framework.simulate.experiment import simulate
from diffuse_framework.simulate.images import SimulatedSource
from diffuse_framework.simulate.nxmx import SeriesWriter
from diffuse_framework.simulate.parameters import PHIL, settings_of
from diffuse_framework.simulate.truth import Truth

logger = logging.getLogger(__name__)

USAGE = "diffuse.simulate [options] [params.phil] [images=20] [counts_per_pixel=1]"

phil_scope = parse(
    PHIL
    + """
output {
  directory = sim
    .type = path
    .help = "Folder for images and truth; made if it is not there."
  format = *cbf nxmx
    .type = choice
    .help = "Format of the images: a mini-CBF file each, or HDF5 files as an EIGER's (NeXus NXmx, compressed with"
            "bitshuffle and LZ4), a master a sweep or series and the pixels beside it."
  log = diffuse.simulate.log
    .type = str
    .help = "Name of the log file in that folder."
}
mp {
  nproc = Auto
    .type = int(value_min=1)
    .help = "Number of processes; Auto takes the CPUs this program may use."
}
"""
)


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.simulate; `args` are those of the command line where None."""
    parser = ArgumentParser(usage=USAGE, phil=phil_scope, epilog=__doc__)
    params, options = parse_arguments(parser, sys.argv[1:] if args is None else args)
    folder = make_folder(Path(params.output.directory))
    start_logs(options.verbose, folder / params.output.log)
    log_start(parser.diff_phil.as_str(), Registry())

    group = params.crystal.space_group.group()
    settings = settings_of(params, symmetry_of(group), sensor_mu_per_mm)
    write = _write_cbf
    if params.output.format == "nxmx":
        # Named as they are when they are read.
        settings, write = replace(settings, name="sim_master.h5#%d"), partial(_write_nxmx, bitshuffle_lz4())
    simulation = simulate(settings, Extinctions(group))
    experiment, truth = simulation.experiment, simulation.truth
    _refuse_strangers(folder, truth.names)
    logger.info(
        "Simulating %d images to d = %.2f angstrom; %.0f reflections an image",
        len(simulation.source),
        truth.intensity.d_min,
        sum(len(image.spots) for image in experiment.images) / len(experiment.images),
    )

    engine = process_engine(available_cpus() if params.mp.nproc is Auto else params.mp.nproc)
    paths = write(engine, simulation.source, folder)
    if params.background_images:
        write(engine, simulation.source.without_crystal(), make_folder(folder / "background"))
    with writing(folder / "truth.h5") as unfinished:
        truth.save(unfinished)
    models = folder / "truth.expt", folder / "truth.refl"
    if truth.angles_deg is None:
        write_models(paths, experiment, truth.bragg.reach[0], writing, *models)
    else:
        write_sweep_models(paths, experiment, writing, *models)
    logger.info("Images and truth are in %s. A map of them:", folder)
    cell = ",".join(f"{x:g}" for x in truth.intensity.cell)
    logger.info(
        "  diffuse.process crystal.unit_cell=%s crystal.space_group=%s %s/%s",
        cell,
        truth.intensity.symmetry.space_group,
        folder,
        "*.cbf" if write is _write_cbf else "*_master.h5",
    )


def _write_cbf(engine: Engine | SerialEngine, source: SimulatedSource, folder: Path) -> list[Path]:
    """Write an image a file; return the files."""
    truth = source.truth
    work = ImageWriter(source, folder, writing, _starts(truth, range(len(source))), truth.width_deg)
    return list(engine.map(work, range(len(source))))


def _write_nxmx(
    compression: dict[str, Any], engine: Engine | SerialEngine, source: SimulatedSource, folder: Path
) -> list[Path]:
    """Write a series for each master that the names of the images tell; return the masters."""
    truth, masters = source.truth, []
    frames = engine.map(source.read, range(len(source)))
    for name, group in groupby(range(len(source)), lambda number: source.names[number].partition("#")[0]):
        numbers = list(group)
        rotation = truth.rotation(numbers[0])
        series = SeriesWriter(
            source.geometry(numbers[0]),
            truth.exposure_s,
            writing,
            compression,
            _starts(truth, numbers),
            truth.width_deg,
            (1.0, 0.0, 0.0) if rotation is None else tuple(rotation.axis),
        )
        series(folder / name, (frame.counts[0] for frame in islice(frames, len(numbers))))
        masters.append(folder / name)
    return masters


def _starts(truth: Truth, numbers: Iterable[int]) -> tuple[float, ...]:
    """Return the angle at which each image begins, none for stills."""
    if truth.angles_deg is None:
        return ()
    return tuple(float(truth.angles_deg[number] - truth.width_deg / 2) for number in numbers)


def _refuse_strangers(folder: Path, names: tuple[str, ...]) -> None:
    """Check that the folder holds no images but those to be written over."""
    own = {name.partition("#")[0] for name in names}
    strangers = sorted(path.name for ending in ("*.cbf", "*_master.h5") for path in folder.glob(ending))
    strangers = [name for name in strangers if name not in own]
    if strangers:
        raise DataError(
            f"{folder} holds images of another data set ({strangers[0]}); empty it or set output.directory="
        )


if __name__ == "__main__":
    run()
