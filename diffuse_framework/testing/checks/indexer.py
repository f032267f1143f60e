"""The rules of an indexer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints, Experiment, Image
from diffuse_framework.model.source import ImageSource
from diffuse_framework.testing.checks.common import BrokenContract, call, require, title_of


def check_indexer(indexer: Any, source: ImageSource, hints: CrystalHints, folder: Path) -> bool:
    """Check one indexer on one source.

    Rules: it leaves the source as it is; every image is either indexed or rejected with a reason, once;
    images keep the order of the source; orientations, exposures and spots are usable.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    arguments = {"source": source, "hints": hints, "folder": folder, "mapper": SerialEngine()}
    try:
        experiment: Experiment = call(indexer, "index", **arguments)
    except DataError as error:
        require(str(error), indexer, "refuses all images without a word; say why, and what to try")
        return False
    say = f"{title_of(indexer)}: "
    require(
        len(experiment.images) > 0,
        indexer,
        "returns an experiment without images; raise DataError with the reason and what to try",
    )
    names = [image.name for image in experiment.images]
    rejected = [item.name for item in experiment.rejected]
    require(
        sorted(names + rejected) == sorted(source.names),
        indexer,
        f"of {len(source)} images {len(names)} are indexed and {len(rejected)} rejected; each image must be one of "
        "them, once, under its name in the source",
    )
    for item in experiment.rejected:
        require(item.reason.strip(), indexer, f"{item.name} is rejected without a reason")
    require(
        [source.names[image.source_index] for image in experiment.images] == names
        and [image.source_index for image in experiment.images]
        == sorted(image.source_index for image in experiment.images),
        indexer,
        "images are not in the order of the source, or source_index does not point to the image of that name",
    )
    for image in experiment.images:
        _check_image(say, image, experiment, source)
    operators = {operator.tobytes() for operator in experiment.symmetry.operators}
    products = {(a @ b).tobytes() for a in experiment.symmetry.operators for b in experiment.symmetry.operators}
    require(
        products == operators,
        indexer,
        "the symmetry operators are no group; take them from diffuse_framework.services.symmetry.symmetry_of",
    )
    return True


def _check_image(say: str, image: Image, experiment: Experiment, source: ImageSource) -> None:
    def require(condition: Any, message: str) -> None:
        if not condition:
            raise BrokenContract(f"{say}{image.name}: {message}")

    require(0 <= image.geometry < len(experiment.geometries), f"there is no geometry number {image.geometry}")
    panels = experiment.geometry_of(image).panels
    shapes = [panel.shape for panel in panels]
    read = [values.shape for values in source.read(image.source_index).counts]
    require(shapes == read, f"its geometry has panels of {shapes} pixels, the image of {read}")
    matrix = np.asarray(image.setting_matrix)
    require(matrix.shape == (3, 3) and np.isfinite(matrix).all(), "setting_matrix is not (3, 3) finite numbers")
    require(
        np.linalg.det(matrix) > 0,
        "setting_matrix is singular or left-handed; it is A = U B with q = A hkl in 1/angstrom",
    )
    require(np.isfinite(image.exposure_s) and image.exposure_s > 0, f"exposure_s is {image.exposure_s}")
    spots = image.spots
    for name in ("intensity", "variance", "partiality", "panel", "observed_px", "predicted_px"):
        require(len(getattr(spots, name)) == len(spots), f"spots.{name} and spots.hkl differ in length")
    require(
        len(spots) == 0 or (spots.panel.min() >= 0 and spots.panel.max() < len(panels)),
        "a spot is on a panel that there is not",
    )
    require(np.isfinite(spots.predicted_px).all(), "spots.predicted_px is not finite")
    require(spots.foreground.ndim == 2 and spots.foreground.shape[1] == 3, "spots.foreground is not (m, 3) integers")
