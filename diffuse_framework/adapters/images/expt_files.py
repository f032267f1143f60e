"""Files of experiments, and where the images are that they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from dxtbx.serialize.filename import resolve_path

from diffuse_framework.adapters.guards.pickles import refuse_pickle
from diffuse_framework.errors import ConfigError, DataError, in_one_line

# More than a scan can have: numbers of a file that was damaged.
_MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class ImagePlaces:
    """Where images are that have moved since a file of experiments was written.

    Attributes:
        folder: in which they are looked for by name, and before that by the folders above; "" for none.
        beginnings: pairs of what paths begin with in the file, and what stands there now.
    """

    folder: str = ""
    beginnings: tuple[tuple[str, str], ...] = ()

    def candidates(self, path: str) -> Iterator[str]:
        """Yield the paths at which an image or a template may be now, the likeliest first."""
        for old, new in self.beginnings:
            if path.startswith(old):
                yield new + path[len(old) :]
        if self.folder:
            parts = Path(path).parts
            for start in range(1, len(parts)):
                yield str(Path(self.folder, *parts[start:]))
        yield path


def image_places(folder: str | None, pairs: Iterable[Iterable[str] | None]) -> ImagePlaces:
    """Return the places that parameters ``input.image_folder`` and ``input.image_map`` name.

    Raises:
        ConfigError: a folder that is not there, or a pair that is none.
    """
    if folder and not Path(folder).is_dir():
        raise ConfigError(f"input.image_folder: there is no folder {folder}")
    beginnings = []
    for pair in pairs:
        words = list(pair or ())
        if not words:
            continue
        if len(words) != 2:
            raise ConfigError(
                f"input.image_map={' '.join(words)}: give what paths begin with in the file, and what stands there now"
            )
        beginnings.append((words[0], words[1]))
    return ImagePlaces(str(Path(folder).absolute()) if folder else "", tuple(beginnings))


def experiments_from_file(
    path: str | Path, check_format: bool = True, places: ImagePlaces = ImagePlaces()
) -> ExperimentList:
    """Return the experiments of an .expt file.

    Args:
        path: of the file.
        check_format: whether its images are opened, and its masks read.
        places: where images are that have moved.

    Raises:
        DataError: it can't be read, names no images, or names files that aren't there or can't be read.
    """
    refuse_pickle(path)
    content = _content(Path(path))
    directory = str(Path(path).absolute().parent)
    try:
        if check_format:
            _refuse_without_images(path, content)
            _relocate(path, content, directory, places)
        return ExperimentListFactory.from_dict(content, check_format=check_format, directory=directory)
    except DataError:
        raise
    # Whatever can be wrong with a text file: dxtbx raises KeyError, ValueError, RuntimeError, its own ...
    except Exception as error:
        raise DataError(f"{path} is not an .expt file that can be read ({in_one_line(error)})") from error


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error
    # A text of another kind, cut short, or not in UTF-8.
    except ValueError as error:
        raise DataError(f"{path} is not an .expt file that can be read ({in_one_line(error)})") from error
    if not isinstance(content, dict) or content.get("__id__") != "ExperimentList":
        raise DataError(f"{path} is not an .expt file that can be read (it holds no list of experiments)")
    return content


def _refuse_without_images(path: str | Path, content: dict[str, Any]) -> None:
    experiments = _dicts(content.get("experiment"))
    without = [number for number, one in enumerate(experiments) if one.get("imageset") is None]
    if not without:
        return
    which = (
        "it has" if len(without) == len(experiments) else f"{len(without)} of its {len(experiments)} experiments have"
    )
    raise DataError(
        f"{path} names no images: {which} no image set. Give the images themselves, with "
        f"input.reference_geometry={path} for its beam and detector, or the .expt file that dials.import or "
        "dials.index wrote"
    )


def _relocate(path: str | Path, content: dict[str, Any], directory: str, places: ImagePlaces) -> None:
    """Write where images are now into the content of a file, and refuse images that are nowhere."""
    missing: list[str] = []
    n_images = 0
    for number, imageset in enumerate(_dicts(content.get("imageset"))):
        if isinstance(imageset.get("images"), list):
            imageset["images"] = [_place(name, [""], directory, places, missing) for name in imageset["images"]]
            n_images += len(imageset["images"])
        elif isinstance(imageset.get("template"), str):
            numbers = _image_numbers(content, number)
            imageset["template"] = _place(imageset["template"], numbers, directory, places, missing)
            n_images += len(numbers)
    if missing:
        tried = " and not where input.image_folder or input.image_map say either" if places != ImagePlaces() else ""
        count = f"{len(missing)} of {n_images} images that are" if n_images > 1 else "an image that is"
        raise DataError(
            f"{path} names {count} not there{tried}, for example {missing[0]}: where they have moved, "
            'give input.image_folder=FOLDER, or input.image_map="OLD NEW" for the beginnings of their paths'
        )


def _place(name: str, numbers: Iterable[int | str], directory: str, places: ImagePlaces, missing: list[str]) -> str:
    """Return where an image, or most images of a template, are now; note the files that aren't there."""
    if re.match(r"\w+://", name):
        return name
    given = resolve_path(name, directory=directory)
    numbers = list(numbers)
    lacking: dict[str, list[str]] = {}
    for candidate in (*places.candidates(given),):
        lacking[candidate] = [file for file in _files(candidate, numbers) if not Path(file).exists()]
        if not lacking[candidate]:
            return candidate
    best = min(lacking, key=lambda candidate: len(lacking[candidate]))
    if len(lacking[best]) == len(numbers):
        # Nowhere at all: by the name in the file.
        best = given
    missing += lacking[best]
    return best


def _files(template: str, numbers: Iterable[int | str]) -> list[str]:
    """Return the file of each image number; a name without ``#`` is one file, of HDF5 for example."""
    runs = list(re.finditer("#+", template))
    if not runs or Path(template).exists():
        return [template]
    start, end = runs[-1].span()
    return [f"{template[:start]}{number:0{end - start}d}{template[end:]}" for number in numbers if number != ""]


def _image_numbers(content: dict[str, Any], imageset: int) -> list[int | str]:
    """Return the numbers of all images of the experiments that use an image set."""
    scans = _dicts(content.get("scan"))
    found: set[int] = set()
    for experiment in _dicts(content.get("experiment")):
        scan = experiment.get("scan")
        if experiment.get("imageset") == imageset and isinstance(scan, int) and 0 <= scan < len(scans):
            first, last = scans[scan].get("image_range", (1, 0))
            if not 0 <= last + 1 - first <= _MOST_IMAGES:
                raise ValueError(f"the image range {first}, {last}")
            found.update(range(first, last + 1))
    return sorted(found) or [""]


def _dicts(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
