"""The scaling model of a run on disk: for people, and for the scaler that made it to read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import DataError, PluginError
from diffuse_framework.host.interfaces import INTERFACES
from diffuse_framework.host.registry import PluginRecord, Registry
from diffuse_framework.io.atomic import write_json
from diffuse_framework.io.plain import decoded, encoded
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ErrorModel, ImageScales, Scales


def write_scales(path: Path, scales: Scales, image_names: tuple[str, ...], maker: PluginRecord) -> None:
    """Write ``refined_scaling_model_params.json``.

    The keys that the visual checks read, for people and plots; and under "model" all that the scaler
    needs to make the same model again.

    Args:
        path: of the file.
        scales: the model.
        image_names: of the images it was fitted to.
        maker: the scaler that made it.

    Raises:
        DataError: the file can't be written, or the model describes itself with something that can't be kept.
    """
    write_json(
        path,
        {
            "refined_parameters": {
                name: {"multiplicative_scale": scale, "multiplicative_scale_sigma": sigma, "additive_offset": offset}
                for name, scale, sigma, offset in zip(
                    image_names, scales.per_image, scales.per_image_sigma, _mean_offsets(scales), strict=True
                )
            },
            "refinement_statistics": scales.statistics,
            "resolution_smoother": _resolution_smoother(scales),
            "error_model": vars(scales.error_model),
            "model": model_record(scales, maker),
        },
    )


def model_record(scales: Scales, maker: PluginRecord) -> dict[str, Any]:
    """Return a scaling model as JSON holds it, with the scaler that reads it.

    Raises:
        DataError: it describes itself with something that can't be kept.
    """
    return maker.to_plain() | {"values": encoded(scales.to_plain(), f"the model of scaler {maker.name!r}")}


def _mean_offsets(scales: Scales) -> list[float | None]:
    """The additive offset of each image, its mean over |q|; None where only the scaler knows."""
    if isinstance(scales, SmoothScales):
        return scales.offsets_at_images().mean(axis=1).tolist()
    return [0.0 if isinstance(scales, ImageScales) else None] * len(scales.per_image)


def _resolution_smoother(scales: Scales) -> dict[str, Any]:
    """Control points of the resolution smoother: |q| and its mean over the images there."""
    part = scales.layout.components.get("resolution") if isinstance(scales, SmoothScales) else None
    if part is None or not isinstance(scales, SmoothScales):
        return {"enabled": False, "control_points": []}
    values = scales.layout.at_images("resolution", scales.parameters)
    return {
        "enabled": True,
        "control_points": [
            {"q": q, "value_mean": at_q.mean(), "value_min": at_q.min(), "value_max": at_q.max()}
            for q, at_q in zip(part.q.positions, values.T, strict=True)
        ],
    }


def read_maker(path: Path) -> PluginRecord:
    """Return which scaler made the scales of a file; those of another program count as per_image's.

    Raises:
        DataError: it can't be read, or is no file of scales.
    """
    return _maker(path, _content(path))


def read_scales(path: Path, image_names: tuple[str, ...], grid: VoxelGrid, registry: Registry) -> Scales:
    """Return the scaling model of ``refined_scaling_model_params.json``, as its scaler made it.

    Args:
        path: of the file.
        image_names: of the sums it is for. Scales of images alone may be for more images, and in another order.
        grid: of those sums.
        registry: the plugins there are.

    Raises:
        DataError: it can't be read, lacks an image, or holds a model of other images.
        PluginError: its scaler is not installed, or older than the file.
    """
    content = _content(path)
    try:
        if "model" not in content:
            return _checked(_foreign(content, path, image_names), path)
        maker = _maker(path, content)
        factory = _factory(maker, path, registry)
        names = tuple(content["refined_parameters"])
        plain = decoded(content["model"]["values"])
        scales = factory.scales_from_plain(plain, names, grid)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds a model that its scaler can't read ({type(error).__name__}: {error}): run diffuse.scale "
            "again"
        ) from error
    if names != image_names:
        if not isinstance(scales, ImageScales):
            raise DataError(f"{path} is a model of other images, or in another order; run diffuse.scale again")
        scales = scales.of_images(_places(names, image_names, path))
    return _checked(scales, path)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not a file of scales: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("refined_parameters"), dict):
        raise DataError(f"{path} is not a file of scales: it has no refined_parameters")
    return content


def _maker(path: Path, content: Mapping[str, Any]) -> PluginRecord:
    if "model" not in content:
        return PluginRecord("scaler", "per_image", INTERFACES["scaler"], "diffuse_plugins")
    try:
        return PluginRecord.from_plain(content["model"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} was written by an older version of diffuse_framework: run diffuse.scale again"
        ) from error


def _factory(maker: PluginRecord, path: Path, registry: Registry) -> Any:
    """Return the class of the scaler that made a model.

    Raises:
        PluginError: it is not there, or the file is newer.
    """
    if maker.interface > INTERFACES["scaler"]:
        raise PluginError(
            f"{path} was made by scaler {maker.name!r} for interface {maker.interface} of scalers, this "
            f"diffuse_framework has {INTERFACES['scaler']}: install a newer diffuse_framework"
        )
    try:
        plugin = registry.find("scaler", maker.name)
    except PluginError as error:
        raise PluginError(
            f"{path} was made by scaler {maker.name!r} of {maker.package}, which can't be used here ({error}): install "
            "that package, or run diffuse.scale again"
        ) from error
    package = plugin.factory.__module__.split(".")[0]
    if package != maker.package:
        raise PluginError(
            f"{path} was made by scaler {maker.name!r} of {maker.package}; the one of that name here is of {package}: "
            f"install {maker.package}, or run diffuse.scale again"
        )
    return plugin.factory


def _foreign(content: Mapping[str, Any], path: Path, image_names: tuple[str, ...]) -> ImageScales:
    """Return the scales of a file of another program, with the keys of the visual checks only."""
    names = tuple(content["refined_parameters"])
    rows = [content["refined_parameters"][names[place]] for place in _places(names, image_names, path)]
    return ImageScales(
        np.array([row["multiplicative_scale"] for row in rows], float),
        np.array([row["multiplicative_scale_sigma"] for row in rows], float),
        content.get("refinement_statistics", {}),
        ErrorModel(**content.get("error_model", {})),
    )


def _places(names: tuple[str, ...], wanted: tuple[str, ...], path: Path) -> np.ndarray:
    places = {name: place for place, name in enumerate(names)}
    missing = [name for name in wanted if name not in places]
    if missing:
        raise DataError(f"{path} has no scale for {missing[0]!r}: it belongs to other sums")
    return np.array([places[name] for name in wanted], int)


def _checked(scales: Scales, path: Path) -> Scales:
    values = np.asarray(scales.per_image, float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise DataError(f"{path} holds scales that are not positive numbers")
    return scales
