"""The JSON options of the visual checks, as parameters of diffuse.process."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffuse_framework.adapters.indexing.dials_phil import split_user_file
from diffuse_framework.adapters.models.reference import reference_cell
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import writing

logger = logging.getLogger("diffuse_framework.look")

_MASKERS = "trusted dynamic"
_CORRECTORS = "solid_angle efficiency air"


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both end-to-end tools have."""
    add = parser.add_argument
    add("--output-base-dir", type=Path, required=True, help="folder for all results")
    add("--dials-phil-path", type=Path, help="parameters of DIALS's spot finding, indexing and integration")
    add(
        "--pdb-path",
        type=Path,
        help="model of this crystal: its cell and space group help indexing, and every image's cell is compared",
    )
    add("--static-mask-config", help="JSON: beamstop, untrusted_rects, untrusted_panels")
    add("--bragg-mask-config", help="JSON: border, algorithm, resolution_range, radius, excitation_error, ...")
    add(
        "--use-bragg-mask-option-b",
        action="store_true",
        help="mask the foreground of integration's shoeboxes",
    )
    add("--extraction-config-json", help="JSON: pixel_step, min_intensity, max_res, air_temperature_k, ...")
    add("--verbose", action="store_true", help="say more")


def read_option(option: str, text: str | None, known: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a JSON option, a text or the name of a file.

    Args:
        option: its name.
        text: as given; None for an option that was not.
        known: keys it may have.

    Raises:
        ConfigError: no JSON, no object, or an unknown key.
    """
    if text is None:
        return {}
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text()
        except OSError as error:
            raise ConfigError(f"{option}: neither JSON nor a file that can be read: {text}") from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option}: not JSON ({error}): {text}") from error
    if not isinstance(content, dict):
        raise ConfigError(f'{option}: an object of names and values is needed, such as {{"{next(iter(known))}": ...}}')
    _refuse_unknown(option, content, known)
    return content


def _refuse_unknown(where: str, content: dict[str, Any], known: Any) -> None:
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise ConfigError(
            f"{where}: there is no option {', '.join(map(repr, unknown))}; there are {', '.join(sorted(known))}"
        )


def _number(option: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{option}: {key} must be a number, not {value!r}")
    return value


def _truth(option: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{option}: {key} must be true or false, not {value!r}")
    return value


def static_mask_phil(text: str | None) -> str:
    """Return ``--static-mask-config`` as parameters of the masker trusted."""
    option = "--static-mask-config"
    content = read_option(option, text, {"beamstop": 0, "untrusted_rects": 0, "untrusted_panels": 0})
    lines = []
    stops = content.get("beamstop") or []
    for stop in stops if isinstance(stops, list) else [stops]:
        lines.append(f"masker.trusted.beamstop {{ {_beamstop(option, stop)} }}")
    for rectangle in content.get("untrusted_rects") or []:
        lines.append(f"masker.trusted.untrusted {{ {_rectangle(option, rectangle)} }}")
    for panel in content.get("untrusted_panels") or []:
        lines.append(f"masker.trusted.untrusted {{ panel = {int(_number(option, 'untrusted_panels', panel))} }}")
    return "\n".join(lines)


def _beamstop(option: str, stop: Any) -> str:
    if not isinstance(stop, dict):
        raise ConfigError(f"{option}: beamstop must be an object with a type, not {stop!r}")
    kind = stop.get("type", "circle")
    if kind == "circle":
        keys = ("center_x", "center_y", "radius")
        _refuse_unknown(f"{option}: beamstop", stop, ("type", "panel", *keys))
        return _shape(option, "circle", stop, keys)
    if kind in ("rect", "rectangle"):
        return _rectangle(option, {key: value for key, value in stop.items() if key != "type"})
    raise ConfigError(f"{option}: a beamstop of type {kind!r} is not known; there are circle and rectangle")


def _rectangle(option: str, rectangle: Any) -> str:
    if not isinstance(rectangle, dict):
        raise ConfigError(f"{option}: a rectangle must be an object with min_x, max_x, min_y, max_y")
    keys = ("min_x", "max_x", "min_y", "max_y")
    _refuse_unknown(f"{option}: rectangle", rectangle, ("panel", *keys))
    return _shape(option, "rectangle", rectangle, keys)


def _shape(option: str, shape: str, content: dict[str, Any], keys: tuple[str, ...]) -> str:
    missing = [key for key in keys if key not in content]
    if missing:
        raise ConfigError(f"{option}: the {shape} lacks {', '.join(missing)}")
    numbers = ",".join(f"{_number(option, key, content[key]):g}" for key in keys)
    panel = f"panel = {int(content['panel'])}\n" if "panel" in content else ""
    return f"{panel}{shape} = {numbers}"


def bragg_mask_phil(text: str | None, shoeboxes: bool) -> tuple[str, str]:
    """Return the name of the masker of Bragg peaks, and ``--bragg-mask-config`` as parameters."""
    option = "--bragg-mask-config"
    own = ("radius", "shape", "excitation_error", "mosaic_width", "d_min")
    known = dict.fromkeys(("border", "algorithm", "resolution_range", *own, "grow"), 0)
    content = read_option(option, text, known)
    masker = "shoebox" if shoeboxes else "bragg"
    lines = []
    if content.get("algorithm", "simple") != "simple":
        raise ConfigError(f"{option}: the algorithm {content['algorithm']!r} is not known; there is 'simple'")
    if "border" in content:
        lines.append(f"masker.trusted.border = {int(_number(option, 'border', content['border']))}")
    if "resolution_range" in content:
        limits = content["resolution_range"]
        if not (isinstance(limits, list) and len(limits) == 2):
            raise ConfigError(f"{option}: resolution_range needs two values of d in angstrom, such as [50.0, 2.0]")
        d_min = min(_number(option, "resolution_range", d) for d in limits)
        # Peaks of lower resolution than the other limit are few and bright, and are masked all the same.
        lines.append(f"masker.bragg.d_min = {d_min:g}")
    lines += [f"masker.bragg.{key} = {content[key]}" for key in own if key in content]
    if "grow" in content:
        lines.append(f"masker.shoebox.grow = {int(_number(option, 'grow', content['grow']))}")
    if shoeboxes:
        # Which of them runs is known once images are open.
        lines += [f"indexer.{name}.shoeboxes = True" for name in ("dials_ssx", "dials_sequence")]
    return masker, "\n".join(lines)


def extraction_phil(text: str | None, pixel_step: int | None, masker: str) -> tuple[str, dict[str, bool]]:
    """Return ``--extraction-config-json`` as parameters, and what of it is not for diffuse.process.

    Returns:
        PHIL text, and ``save_original_pixel_coordinates`` and ``plot_diagnostics``.
    """
    option = "--extraction-config-json"
    parameters: dict[str, tuple[str, Callable[[str, str, Any], Any]]] = {
        "pixel_step": ("masker.filter.pixel_step", _number),
        "min_intensity": ("masker.filter.min_intensity", _number),
        "max_intensity": ("masker.filter.max_intensity", _number),
        "min_res": ("masker.trusted.d_max", _number),
        "max_res": ("masker.trusted.d_min", _number),
        "air_temperature_k": ("corrector.air.temperature", _number),
        "air_pressure_atm": ("corrector.air.pressure", _number),
    }
    other = ("gain", "lp_correction_enabled", "save_original_pixel_coordinates", "plot_diagnostics")
    content = read_option(option, text, dict.fromkeys((*parameters, *other), 0))
    if pixel_step is not None:
        content["pixel_step"] = pixel_step
    lines = [
        f"{name} = {check(option, key, content[key]):g}"
        for key, (name, check) in parameters.items()
        if content.get(key) is not None
    ]
    gain = content.get("gain")
    if gain is not None and _number(option, "gain", gain) != 1:
        lines.append(f"geometry.detector.panel.gain = {gain:g}")
    filters = any(content.get(key) is not None for key in ("pixel_step", "min_intensity", "max_intensity"))
    lines.append(f"masker.plugins = {_MASKERS} {masker}{' filter' if filters else ''}")
    # The option is named for a Lorentz and polarisation correction, and switches polarisation alone: an intensity
    # per solid angle and exposure needs no Lorentz factor.
    polarized = _truth(option, "lp_correction_enabled", content.get("lp_correction_enabled", True))
    lines.append(f"corrector.plugins = {_CORRECTORS}{' polarization' if polarized else ''}")
    asked = {
        key: _truth(option, key, content.get(key, True))
        for key in ("save_original_pixel_coordinates", "plot_diagnostics")
    }
    return "\n".join(lines), asked


def scaling_phil(text: str | None, registry: Registry) -> str:
    """Return ``--relative-scaling-config-json`` as parameters of a scaler.

    The resolution smoother is that of the scaler smooth, where it is installed.
    """
    option = "--relative-scaling-config-json"
    keys = ("enable_res_smoother", "max_iterations", "convergence_tolerance")
    content = read_option(option, text, dict.fromkeys(keys, 0))
    scaler = "per_image"
    lines = []
    if _truth(option, "enable_res_smoother", content.get("enable_res_smoother", False)):
        if ("scaler", "smooth") in registry.plugins:
            scaler = "smooth"
            lines.append("scaler.smooth.resolution.refine = True")
        else:
            logger.warning(
                "%s: no installed scaler has a resolution smoother; going on with one scale per image", option
            )
    lines.append(f"scaler.plugin = {scaler}")
    if "max_iterations" in content:
        lines.append(
            f"scaler.{scaler}.max_cycles = {int(_number(option, 'max_iterations', content['max_iterations']))}"
        )
    if "convergence_tolerance" in content:
        tolerance = _number(option, "convergence_tolerance", content["convergence_tolerance"])
        lines.append(f"scaler.{scaler}.tolerance = {tolerance:g}")
    return "\n".join(lines)


def grid_phil(text: str | None) -> str:
    """Return ``--grid-config-json`` as parameters of the grid."""
    option = "--grid-config-json"
    names = ("ndiv_h", "ndiv_k", "ndiv_l")
    content = read_option(option, text, dict.fromkeys((*names, "d_min_target", "d_max_target"), 0))
    lines = []
    if any(name in content for name in names):
        numbers = [int(_number(option, name, content.get(name, 3))) for name in names]
        lines.append(f"grid.hkl.divisions = {numbers[0]},{numbers[1]},{numbers[2]}")
    for key, name in (("d_min_target", "d_min"), ("d_max_target", "d_max")):
        if content.get(key) is not None:
            lines.append(f"grid.hkl.{name} = {_number(option, key, content[key]):g}")
    return "\n".join(lines)


def crystal_phil(pdb_path: Path | None) -> str:
    """Return a model's cell and space group as hints, and the model as what cells are compared with."""
    if pdb_path is None:
        return ""
    cell, group = reference_cell(pdb_path)
    lines = [
        f"crystal.unit_cell = {','.join(f'{x:g}' for x in cell)}",
        f'crystal.reference = "{pdb_path.absolute()}"',
    ]
    if group:
        lines.append(f'crystal.space_group = "{group}"')
    return "\n".join(lines)


def dials_phil(path: Path | None, folder: Path) -> str:
    """Hand each parameter of a DIALS file to the programs that know it, by files left in `folder`.

    Which indexer runs is known once images are open, so both are told.

    Raises:
        ConfigError: a file that can't be read, or a parameter that none of them has.
    """
    if path is None:
        return ""
    lines = []
    for indexer, split in split_user_file(path).items():
        if split.unused:
            lines.append(f"# Of {path.name} the indexer {indexer} has no use for {', '.join(split.unused)}.")
        for program, text in split.texts.items():
            if text:
                own = folder / f"{indexer}_{program}.phil"
                with writing(own) as temporary:
                    temporary.write_text(text)
                lines.append(f'indexer.{indexer}.{program}_phil = "{own.absolute()}"')
    return "\n".join(lines)
