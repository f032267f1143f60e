"""Sweeps that XDS has processed, through the functions of dials.import_xds."""

from __future__ import annotations

import io
import logging
import tempfile
from contextlib import redirect_stdout
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.errors import DataError, in_one_line

logger = logging.getLogger(__name__)


def read_xds(folder: Path) -> tuple[Any, Any]:
    """Return the experiment of a folder that XDS ran in, and its reflections.

    The crystal is that of XDS_ASCII.HKL, INTEGRATE.HKL, GXPARM.XDS or XPARM.XDS, the first that is there;
    with INTEGRATE.LP it varies over the scan. Reflections are those of INTEGRATE.HKL, None without it.

    Args:
        folder: that holds XDS.INP.

    Raises:
        DataError: files that are missing or can't be read.
    """
    from dials.command_line.import_xds import IntegrateHKLImporter, XDSFileImporter

    # DIALS 3.30 takes and returns a Path where 3.12 has text; dxtbx's readers take text in both.
    models = XDSFileImporter.find_best_xds_file(folder)
    if models is None or not (folder / "XDS.INP").is_file():
        raise DataError(
            f"input.xds: {folder} must hold XDS.INP and one of XDS_ASCII.HKL, INTEGRATE.HKL, GXPARM.XDS and XPARM.XDS"
        )
    captured_log = io.StringIO()
    try:
        with redirect_stdout(captured_log), tempfile.TemporaryDirectory(prefix="diffuse_") as scratch:
            experiments = ExperimentListFactory.from_xds(str(folder / "XDS.INP"), str(models))
            if (folder / "INTEGRATE.LP").is_file():
                XDSFileImporter.extract_varying_crystal(str(folder / "INTEGRATE.LP"), experiments)
            table = None
            if (folder / "INTEGRATE.HKL").is_file():
                from dials.array_family import flex

                target = str(Path(scratch) / "integrated.refl")
                # DIALS 3.30 takes all experiments and writes to `reflections`, 3.12 takes one and writes to `filename`.
                wanted = SimpleNamespace(output=SimpleNamespace(filename=target, reflections=target))
                takes_all = "experiments" in signature(IntegrateHKLImporter.__init__).parameters
                model = experiments if takes_all else experiments[0]
                IntegrateHKLImporter(str(folder / "INTEGRATE.HKL"), model)(wanted, None)
                table = flex.reflection_table.from_file(target)
    # The readers raise whatever a text that is not as expected leads to.
    except Exception as error:
        raise DataError(f"input.xds: the files of XDS in {folder} can't be read ({in_one_line(error)})") from error
    logger.debug("Reading %s:\n%s", folder, captured_log.getvalue())
    logger.info("Geometry and crystal of %s are those of XDS in %s", Path(models).name, folder)
    return experiments, table
