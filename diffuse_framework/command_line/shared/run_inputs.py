"""From the parameters of diffuse.process to what a run takes: images, hints, engine, files of images."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from dials.util.options import flatten_experiments, flatten_reflections
from libtbx import Auto

from diffuse_framework.adapters.images.open import PanelValues, open_source, readable_images
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.images.xds import read_xds
from diffuse_framework.adapters.models.reference import reference_cell
from diffuse_framework.adapters.models.symmetry import cell_of
from diffuse_framework.command_line.shared.arguments import template_files
from diffuse_framework.command_line.shared.image_files import ImageFiles
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.dask import DaskSettings
from diffuse_framework.engine.processes import available_cpus
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import make_folder
from diffuse_framework.model.experiment import CrystalHints
from diffuse_framework.stages.work import Mapper

# A cell edge below this, in angstrom, is a mistake: PHIL completes a cell of too few numbers with ones.
SHORTEST_AXIS = 2.0
# In place of a number: from the images.
ESTIMATE = "estimate"


def refuse_no_images(params: Any) -> None:
    """Refuse parameters that name no image.

    Raises:
        DataError: they name none.
    """
    given = params.input
    if not (given.experiments or given.unreadable or any(given.template or ()) or any(given.xds or ())):
        raise DataError("no images: give image files, a template like img_####.cbf, or an .expt file")


def open_images(params: Any) -> DxtbxSource:
    """Return all images that the command line and the parameters name.

    Raises:
        DataError, GeometryError, ConfigError: files that can't be used together.
    """
    experiments = flatten_experiments(params.input.experiments)
    unreadable = params.input.unreadable
    for template in params.input.template or []:
        images, left_out = readable_images(template_files(template))
        experiments.extend(images)
        unreadable += left_out
    reflections = tuple(flatten_reflections(params.input.reflections))
    for folder in params.input.xds or []:
        if folder is not None:
            found, table = read_xds(Path(folder))
            experiments.extend(found)
            reflections += () if table is None else (table,)
    return open_source(
        experiments,
        reflections,
        params.input.reference_geometry,
        params.geometry,
        params.input.kind,
        unreadable,
        params.input.duplicates,
        panel_values(params.detector),
    )


def panel_values(detector: Any) -> PanelValues:
    """Return what the parameters say of all panels.

    Raises:
        ConfigError: a gain or pedestal that is neither a number nor "estimate".
    """
    trusted = detector.trusted_range
    noise = tuple(detector.read_noise or ())
    gain, pedestal = (_number_or_estimate(name, getattr(detector, name)) for name in ("gain", "pedestal"))
    if isinstance(gain, float) and not 1e-6 <= gain < np.inf:
        raise ConfigError(f"detector.gain={detector.gain} must be above 0")
    return PanelValues(
        gain if isinstance(gain, float) else None,
        pedestal if isinstance(pedestal, float) else None,
        None if trusted is None else tuple(trusted),
        noise,
        tuple(name for name, value in (("gain", gain), ("pedestal", pedestal)) if value == ESTIMATE),
    )


def _number_or_estimate(name: str, text: str | None) -> float | str | None:
    if text is None or text.strip().lower() == ESTIMATE:
        return None if text is None else ESTIMATE
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"detector.{name}={text} is neither a number nor estimate") from error
    if not np.isfinite(value):
        raise ConfigError(f"detector.{name}={text} is no value that it can have")
    return value


def hints_of(params: Any) -> CrystalHints:
    """Return what the parameters say of the crystal.

    Raises:
        ConfigError: a cell that is no crystal's, or not that of the space group.
        DataError: a reference that can't be read.
    """
    cell, group = params.crystal.unit_cell, params.crystal.space_group
    if cell and min(cell_of(cell)[:3]) < SHORTEST_AXIS:
        raise ConfigError(
            f"crystal.unit_cell={cell_of(cell)} is no crystal's: give three lengths in angstrom and three angles "
            "in degrees, separated by commas"
        )
    if cell and group and not group.group().is_compatible_unit_cell(cell):
        raise ConfigError(f"crystal.unit_cell={cell_of(cell)} can't be that of crystal.space_group={group}")
    reference = reference_cell(Path(params.crystal.reference))[0] if params.crystal.reference else None
    return CrystalHints(cell_of(cell) if cell else None, str(group) if group else None, reference)


def engine_of(params: Any) -> AbstractContextManager[Mapper]:
    """Return what spreads work as ``mp`` says.

    Raises:
        ConfigError: parameters that contradict each other.
    """
    n_workers, dask = _workers(params), params.mp.dask
    settings = DaskSettings(
        scheduler=dask.scheduler or "",
        cluster=dask.cluster,
        n_workers=n_workers if params.mp.method == "dask" else 1,
        memory=dask.memory,
        queue=dask.queue or "",
        account=dask.account or "",
        walltime=dask.walltime,
        directives=tuple(line for line in dask.directives if line),
    )
    return open_engine(params.mp.method, n_workers, settings)


def local_workers(params: Any) -> int:
    """Return how many processes of this machine read images; of those elsewhere their schedulers take care.

    Raises:
        ConfigError: see `engine_of`.
    """
    elsewhere = params.mp.method == "dask" and (params.mp.dask.scheduler or params.mp.dask.cluster == "slurm")
    return 1 if elsewhere or params.mp.method in ("serial", "mpi") else _workers(params)


def _workers(params: Any) -> int:
    if params.mp.nproc is not Auto:
        return params.mp.nproc
    if params.mp.method == "dask" and params.mp.dask.cluster == "slurm" and not params.mp.dask.scheduler:
        raise ConfigError("mp.dask.cluster=slurm starts one job a worker: say how many with mp.nproc=")
    return available_cpus()


def image_files_of(params: Any, folder: Path) -> ImageFiles | None:
    """Return what writes the files that single images leave in `folder`, None where none are wanted."""
    masks = params.output.masks
    if masks == "none" and not params.output.pixels:
        return None
    return ImageFiles(make_folder(folder / filenames.IMAGES), masks, params.output.pixels)
