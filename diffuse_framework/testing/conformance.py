"""The contract of a stage as a test that pytest collects, in one line of a plugin's own tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from diffuse_framework.host.interfaces import INTERFACES
from diffuse_framework.model.experiment import CrystalHints
from diffuse_framework.testing import strategies
from diffuse_framework.testing.checks import (
    BrokenContract,
    check_absolute_scaler,
    check_accumulator,
    check_corrector,
    check_grid,
    check_indexer,
    check_masker,
    check_merger,
    check_plugin,
    check_reindexer,
    check_scaler,
    check_validator,
)
from diffuse_framework.testing.round_trip import check_round_trip


def conformance_tests(
    stage: str, factory: type, parameters: str = "", max_examples: int = 20, shrink: bool = False
) -> Callable[[], None]:
    """Return a test of everything that a plugin of `stage` must keep.

    Write ``test_contract = conformance_tests("scaler", MyScaler)`` in a test module.

    Args:
        stage: for example "scaler".
        factory: the plugin's class.
        parameters: PHIL text in the plugin's own scope, for example ``"width = 3"``.
        max_examples: data sets to try it on.
        shrink: look for the smallest data set that fails, which may take a minute.

    Raises:
        ValueError: a stage that there is not.
    """
    if stage not in _CASES:
        raise ValueError(f"there is no stage {stage!r}; there are {', '.join(INTERFACES)}")
    check = _CASES[stage]

    def test_contract() -> None:
        plugin = check_plugin(stage, factory, parameters)
        accepted = []
        broken: list[BrokenContract] = []

        @settings(
            max_examples=max_examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=[phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)],
        )
        @given(data=st.data())
        def on_drawn_data(data: Any) -> None:
            try:
                accepted.append(check(plugin, data))
            except BrokenContract as fault:
                broken.append(fault)
                raise

        try:
            on_drawn_data()
        except Flaky:
            # A plugin that draws random numbers may pass when Hypothesis repeats the data set that it failed on.
            if not broken:
                raise
            raise broken[0] from None
        if not any(accepted):
            raise BrokenContract(
                f"{factory.__name__} refuses each of {len(accepted)} data sets it was tried on, so nothing is known "
                "of it; give conformance_tests the parameters with which it works"
            )
        if stage in _KEPT:
            check_round_trip(stage, plugin, parameters)

    test_contract.__doc__ = f"{factory.__name__} keeps the contract of {stage}."
    return test_contract


def _indexer(plugin: Any, data: Any) -> bool:
    images = data.draw(strategies.data_sets(max_panels=4))
    symmetry = images.experiment.symmetry
    cell = data.draw(strategies.unit_cells(symmetry))
    hints = data.draw(st.sampled_from([CrystalHints(), CrystalHints(cell, symmetry.space_group)]))
    with tempfile.TemporaryDirectory() as folder:
        return check_indexer(plugin, images.source, hints, Path(folder))


def _validator(plugin: Any, data: Any) -> bool:
    images = data.draw(strategies.data_sets(max_panels=4))
    hints = data.draw(st.sampled_from([CrystalHints(), CrystalHints(reference_cell=(30, 40, 50, 90, 90, 90))]))
    return check_validator(plugin, images.experiment, images.source, hints)


def _masker(plugin: Any, data: Any) -> bool:
    images = data.draw(strategies.data_sets())
    pixels = data.draw(strategies.pixel_tables(images.source.of_all))
    return check_masker(plugin, images.source, images.experiment, pixels)


def _corrector(plugin: Any, data: Any) -> bool:
    images = data.draw(strategies.data_sets(max_images=2))
    return check_corrector(plugin, images.experiment.images, images.source.of_all)


def _grid(plugin: Any, data: Any) -> bool:
    images = data.draw(strategies.data_sets(max_panels=4))
    return check_grid(plugin, images.experiment, data.draw(strategies.seeds()))


def _accumulator(plugin: Any, data: Any) -> bool:
    case = data.draw(strategies.accumulator_cases())
    return check_accumulator(
        plugin,
        case.data.experiment,
        case.data.source.frames,
        case.grid,
        case.pixels,
        case.masks,
        case.backgrounds,
    )


def _reindexer(plugin: Any, data: Any) -> bool:
    images = data.draw(strategies.data_sets(max_panels=4))
    sums = data.draw(strategies.voxel_sums(symmetry=images.experiment.symmetry, n_images=len(images.experiment.images)))
    return check_reindexer(plugin, sums, images.experiment)


def _scaler(plugin: Any, data: Any) -> bool:
    return check_scaler(plugin, data.draw(strategies.voxel_sums()))


def _merger(plugin: Any, data: Any) -> bool:
    sums = data.draw(strategies.voxel_sums())
    return check_merger(plugin, sums, data.draw(strategies.image_scales(len(sums.image_names))))


def _absolute_scaler(plugin: Any, data: Any) -> bool:
    merged = data.draw(strategies.merged_maps())
    return check_absolute_scaler(plugin, merged, data.draw(strategies.image_scales(3)))


# Of these something is written that another run reads back.
_KEPT = ("scaler", "merger", "absolute_scaler")

_CASES: dict[str, Callable[[Any, Any], bool]] = {
    "indexer": _indexer,
    "validator": _validator,
    "masker": _masker,
    "corrector": _corrector,
    "grid": _grid,
    "accumulator": _accumulator,
    "reindexer": _reindexer,
    "scaler": _scaler,
    "merger": _merger,
    "absolute_scaler": _absolute_scaler,
}
