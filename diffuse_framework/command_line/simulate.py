"""Simulate images, stills or rotations, of a crystal whose diffuse scattering is known.

Images are PILATUS mini-CBF files with Poisson noise, Bragg peaks that DIALS can index, gaps between
modules and a different scale for each image. Beside them are left truth.h5 (the true intensity,
scales and orientations), truth.expt and truth.refl (the true models, for processing without indexing).

Examples::

  diffuse.simulate
  diffuse.simulate images=180 rotation.width=1 rotation.sweeps=2
  diffuse.simulate images=50 counts_per_pixel=0.1 detector.model=2M output.directory=dim
  diffuse.simulate crystal.unit_cell=58,58,150,90,90,90 crystal.space_group=P41212 detector.distance=200
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from dials.util.options import ArgumentParser
from iotbx.phil import parse
from libtbx import Auto

from diffuse_framework.adapters.simulated import (
    Extinctions,
    sensor_mu_per_mm,
    write_models,
    write_sweep_models,
)
from diffuse_framework.adapters.symmetry import symmetry_of
from diffuse_framework.command_line.arguments import parse_arguments
from diffuse_framework.command_line.failures import report_failures
from diffuse_framework.command_line.logs import log_start, start_logs
from diffuse_framework.engine.processes import available_cpus, process_engine
from diffuse_framework.errors import DataError
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.whole import make_folder, writing
from diffuse_framework.simulate.cbf import ImageWriter
from diffuse_framework.simulate.experiment import simulate
from diffuse_framework.simulate.images import SimulatedSource
from diffuse_framework.simulate.parameters import PHIL, settings_of

logger = logging.getLogger(__name__)

USAGE = "diffuse.simulate [options] [params.phil] [images=20] [counts_per_pixel=1]"

phil_scope = parse(
    PHIL
    + """
output {
  directory = sim
    .type = path
    .help = "Folder for images and truth; made if it is not there."
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
    simulation = simulate(settings_of(params, symmetry_of(group), sensor_mu_per_mm), Extinctions(group))
    experiment, truth = simulation.experiment, simulation.truth
    _refuse_strangers(folder, truth.names)
    logger.info(
        "Simulating %d images to d = %.2f angstrom; %.0f reflections an image",
        len(simulation.source),
        truth.intensity.d_min,
        sum(len(image.spots) for image in experiment.images) / len(experiment.images),
    )

    engine = process_engine(available_cpus() if params.mp.nproc is Auto else params.mp.nproc)
    work = _writer(simulation.source, folder)
    paths = list(engine.map(work, range(len(simulation.source))))
    if params.background_images:
        empty = _writer(simulation.source.without_crystal(), make_folder(folder / "background"))
        list(engine.map(empty, range(len(simulation.source))))
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
        "  diffuse.process crystal.unit_cell=%s crystal.space_group=%s %s/*.cbf",
        cell, truth.intensity.symmetry.space_group, folder,
    )  # fmt: skip


def _writer(source: SimulatedSource, folder: Path) -> ImageWriter:
    truth = source.truth
    starts = () if truth.angles_deg is None else tuple(truth.angles_deg - truth.width_deg / 2)
    return ImageWriter(source, folder, writing, starts, truth.width_deg)


def _refuse_strangers(folder: Path, names: tuple[str, ...]) -> None:
    """Check that the folder holds no images but those to be written over."""
    strangers = sorted(path.name for path in folder.glob("*.cbf") if path.name not in names)
    if strangers:
        raise DataError(
            f"{folder} holds images of another data set ({strangers[0]}); empty it or set output.directory="
        )


if __name__ == "__main__":
    run()
