"""The files of the visual checks, a folder for each phase, made from the results of diffuse.process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffuse_framework.adapters.images.masks import read_mask, write_mask
from diffuse_framework.adapters.images.models import ImageModels, save_imported
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.command_line.process import Finished
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import make_folder, writing
from diffuse_framework.io.results import file_stem
from diffuse_framework.model.experiment import Image


def models_of_image(finished: Finished, folder: Path) -> None:
    """Write what was imported and found: ``imported.expt``, ``strong.refl``, ``indexed_initial`` and so on.

    Images are refined while they are indexed, so the initial and the refined files hold the same models;
    the initial one has the indexed spots only.
    """
    save_imported(finished.source, folder / "imported.expt")
    models = ImageModels(finished.folder / filenames.INDEXED, finished.folder / filenames.REFLECTIONS)
    for _, number, frame in places_in_file(finished):
        models.save(number, frame, folder)


def places_in_file(finished: Finished) -> Iterator[tuple[Image, int, int | None]]:
    """Yield each image of the map, the number of its experiment in ``indexed.expt``, and its frame there.

    The file also has what was rejected after indexing. A still has an experiment of its own and no frame.
    """
    experiment = finished.outcome.experiment
    used = {image.name: image for image in experiment.images}
    in_file = used.keys() | {item.name for item in experiment.rejected if item.stage == "validation"}
    names = finished.source.names
    if not isinstance(finished.source, SequenceSource):
        for number, name in enumerate(name for name in names if name in in_file):
            if name in used:
                yield used[name], number, None
        return
    number = 0
    for sweep in finished.source.sweeps:
        own = names[sweep.first : sweep.first + sweep.n_images]
        if in_file.isdisjoint(own):
            continue
        for frame, name in enumerate(own):
            if name in used:
                yield used[name], number, frame
        number += 1


def place_image_files(
    finished: Finished, image: Image, folder: Path, coordinates: bool = True, pixels: bool = True
) -> Path | None:
    """Write masks and, if wanted, pixels of one image for the visual checks; return the path of the pixels.

    ``bragg_mask.pickle`` is True on Bragg peaks; the other masks are True where a
    pixel is used.
    """
    make_folder(folder)
    stem = finished.folder / filenames.IMAGES / file_stem(image.name)
    total = read_mask(f"{stem}_total_diffuse_mask.pickle")
    trusted = read_mask(f"{stem}_pixel_mask.pickle")
    write_mask(folder / "global_pixel_mask.pickle", trusted)
    write_mask(folder / "total_diffuse_mask.pickle", total)
    write_mask(folder / "bragg_mask.pickle", tuple(t & ~d for t, d in zip(trusted, total, strict=True)))
    if not pixels:
        return None
    source, target = Path(f"{stem}_diffuse_data.npz"), folder / "diffuse_data.npz"
    if coordinates:
        with writing(target) as temporary:
            source.replace(temporary)
        return target
    with np.load(source, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if not name.startswith("original_")}
    with writing(target) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return target
