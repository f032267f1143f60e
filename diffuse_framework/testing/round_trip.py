"""What a scaler, merger or absolute scaler makes, written and read back in a new process: the same map, to the bit."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from iotbx.phil import parse

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.config.scope import build_scope
from diffuse_framework.errors import DiffuseError
from diffuse_framework.host.registry import Plugin, Registry, record_of
from diffuse_framework.io import filenames
from diffuse_framework.io.inputs import read_arrays
from diffuse_framework.io.results import write_results
from diffuse_framework.io.scales import read_maker, read_scales
from diffuse_framework.io.sums_store import StoredSums, SumsWriter
from diffuse_framework.model.maps import RELATIVE, AbsoluteMap, MergedMap
from diffuse_framework.model.scales import ImageScales, Scales
from diffuse_framework.model.voxels import SumsInMemory, VoxelSums
from diffuse_framework.pipeline.process import merge
from diffuse_framework.pipeline.run import make_map
from diffuse_framework.stages.steps import MergingSteps
from diffuse_framework.testing.checks.altered import known_scales
from diffuse_framework.testing.checks.common import BrokenContract, require, title_of

_MAPS = (filenames.RELATIVE_MAP, filenames.ABSOLUTE_MAP)


def check_round_trip(stage: str, plugin: Any, parameters: str = "") -> bool:
    """Check that what a plugin makes of noise-free sums survives the program's own files.

    The sums, the scaling model and the map are written; a new process reads sums and model, and makes the map again.

    Args:
        stage: "scaler", "merger" or "absolute_scaler".
        plugin: made with `parameters`.
        parameters: PHIL text in the plugin's own scope.

    Returns:
        False where the plugin refuses these sums.

    Raises:
        BrokenContract: the map differs, or can't be made.
    """
    sums, truth = known_scales()
    with tempfile.TemporaryDirectory() as temporary:
        before, after = Path(temporary) / "before", Path(temporary) / "after"
        before.mkdir()
        after.mkdir()
        try:
            _first_run(stage, plugin, sums, truth, before)
        except DiffuseError as error:
            if stage == "scaler":
                raise BrokenContract(f"{title_of(plugin)}: what it makes can't be kept: {error}") from error
            return False
        job = {
            "path": sys.path,
            "module": type(plugin).__module__,
            "file": inspect.getfile(type(plugin)),
            "name": type(plugin).__qualname__,
            "stage": stage,
            "parameters": parameters,
            "before": str(before),
            "after": str(after),
        }
        done = subprocess.run(
            [sys.executable, "-c", "from diffuse_framework.testing.round_trip import again; again()"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
        )
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        require(done.returncode == 0, plugin, f"what it made can't be read back in a new process: {last}")
        for name in _MAPS:
            _compare(plugin, before / name, after / name)
    return True


def _first_run(stage: str, plugin: Any, sums: SumsInMemory, truth: np.ndarray, folder: Path) -> None:
    """Make and write sums, scales and map, as diffuse.process does."""
    writer = SumsWriter(folder / filenames.SUMS, sums.grid, sums.image_names)
    for table in sums.tables():
        writer.append(table)
    stored = writer.finish()
    scaler = plugin if stage == "scaler" else _KnownScales(truth)
    scales = scaler.fit(stored, None)
    final = merge(stored, scales, _steps(stage, plugin), None)
    write_results(folder, final, scales, stored.image_names, record_of("scaler", scaler))


def _steps(stage: str, plugin: Any) -> MergingSteps:
    """The plugin, and the simplest of what stands beside it."""
    merger: Any = plugin if stage == "merger" else _PoissonMerger()
    absolute_scaler: Any = plugin if stage == "absolute_scaler" else _Relative()
    return MergingSteps(merger, absolute_scaler)


@dataclasses.dataclass(frozen=True, eq=False)
class _KnownScales:
    """A scaler that knows the answer."""

    truth: np.ndarray
    name = "known"
    interface = 2

    def fit(self, sums: VoxelSums, experiment: Any) -> Scales:
        return ImageScales(self.truth, 0.01 * self.truth)

    @classmethod
    def scales_from_plain(cls, plain: Any, image_names: tuple[str, ...], grid: Any) -> Scales:
        return ImageScales.from_plain(plain)


class _PoissonMerger:
    """The default merger; nobody imports a plugin."""

    name = "poisson"

    def merge(self, sums: VoxelSums, scales: Scales) -> MergedMap:
        return poisson_merge(sums, scales)


class _Relative:
    """Leaves the map as it is."""

    name = "unit"

    def scale(self, merged: MergedMap, scales: Scales, experiment: Any) -> AbsoluteMap:
        return AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, RELATIVE)


def _compare(plugin: Any, before: Path, after: Path) -> None:
    require(before.is_file() == after.is_file(), plugin, f"{before.name} is there in one of two runs only")
    if not before.is_file():
        return
    first, second = read_arrays(before, ()), read_arrays(after, ())
    for name, values in first.items():
        same = np.array_equal(values, second[name], equal_nan=True)
        require(
            same,
            plugin,
            f"{name} of {before.name} is another one when it is made again from what was written. What a plugin "
            "returns must be all in to_plain and scales_from_plain (of scales), and depend on its arguments alone",
        )


def again() -> None:
    """Do in a new process what diffuse.merge does; the job comes as JSON on standard input."""
    job = json.loads(sys.stdin.read())
    sys.path[:] = job["path"]
    factory = _factory(job["module"], job["file"], job["name"])
    registry = Registry()
    registry.add(Plugin("scaler", "known", _KnownScales, "", ""))
    registry.add(Plugin(job["stage"], factory.name, factory, "", ""))
    scope = build_scope(registry, (job["stage"],), core="")
    inner = f"{job['stage']}.{factory.name} {{\n{job['parameters']}\n}}"
    params = getattr(getattr(scope.fetch(parse(inner)).extract(), job["stage"]), factory.name, None)
    before = Path(job["before"])
    sums = StoredSums(before / filenames.SUMS)
    path = before / filenames.SCALES
    scales = read_scales(path, sums.image_names, sums.grid, registry)
    steps = _steps(job["stage"], factory.from_params(params))
    make_map(sums, scales, read_maker(path), steps, Path(job["after"]))


def _factory(module: str, file: str, name: str) -> Any:
    """Import the class of a plugin, from its file where its module has no importable name."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None and spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules[module] = found
        spec.loader.exec_module(found)
    for part in name.split("."):
        found = getattr(found, part)
    return found
