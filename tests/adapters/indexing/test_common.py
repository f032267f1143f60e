"""What the DIALS indexers share, without images."""

from __future__ import annotations

import logging
import pickle
import sys

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.algorithms.shoebox import MaskCode
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Beam, Crystal, Detector, Experiment, MosaicCrystalSauter2014

from diffuse_framework.adapters.images.experiments import (
    SharedModels,
    cropped_shoeboxes,
    spots_of,
    with_observations,
)
from diffuse_framework.adapters.indexing import shims
from diffuse_framework.adapters.indexing.common import (
    best_lattice,
    capture_dials_log,
    dials_logger,
    has_indexing_ambiguity,
    spots_advice,
)
from diffuse_framework.adapters.indexing.dials_phil import DialsParameters, hint_text, phil_paths, user_texts
from diffuse_framework.errors import ConfigError, DataError, in_one_line
from diffuse_framework.model.experiment import CrystalHints


def make_crystal(cell=(58, 58, 150), group="P41212"):
    """Return a crystal with its axes along the laboratory's."""
    a, b, c = cell
    return Crystal((a, 0, 0), (0, b, 0), (0, 0, c), space_group_symbol=group)


def make_detector(size=(100, 80)):
    """Return one panel; size is (fast, slow)."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_frame((1, 0, 0), (0, -1, 0), (-5, 5, -100))
    panel.set_pixel_size((0.1, 0.1))
    panel.set_image_size(size)
    return detector


def make_table(hkl, flag_names=("predicted",), x=10.0, identifier="a"):
    """Return a reflection table with one row per hkl, at (x + row, 20) predicted, 1 px further observed."""
    n = len(hkl)
    table = flex.reflection_table()
    table["id"] = flex.int(n, 0)
    table["miller_index"] = flex.miller_index(hkl)
    table["panel"] = flex.size_t(n, 0)
    table["xyzcal.px"] = flex.vec3_double([(x + row, 20.0, 0.0) for row in range(n)])
    table["xyzobs.px.value"] = flex.vec3_double([(x + row + 1, 20.0, 0.0) for row in range(n)])
    table["intensity.sum.value"] = flex.double(range(1, n + 1))
    table["intensity.sum.variance"] = flex.double(n, 4.0)
    table["partiality"] = flex.double(n, 0.5)
    table["flags"] = flex.size_t(n, 0)
    for name in flag_names:
        table.set_flags(flex.bool(n, True), getattr(table.flags, name))
    table.experiment_identifiers()[0] = identifier
    return table


def add_shoeboxes(table, boxes):
    """Give each row a shoebox of (x0, x1, y0, y1) whose middle pixel and the next are foreground."""
    bounds = flex.int6([(*box, 0, 1) for box in boxes])
    shoeboxes = flex.shoebox(flex.size_t(len(table), 0), bounds, allocate=True)
    for row, (x0, x1, y0, y1) in enumerate(boxes):
        box = shoeboxes[row]
        mask = flumpy.to_numpy(box.mask)
        mask[:] = int(MaskCode.Valid) | int(MaskCode.Background)
        slow, fast = (y1 - y0) // 2, (x1 - x0) // 2
        mask[0, slow, fast : fast + 2] = int(MaskCode.Valid) | int(MaskCode.Foreground)
        flumpy.to_numpy(box.data)[:] = np.arange(mask.size).reshape(mask.shape)
        shoeboxes[row] = box
    table["shoebox"] = shoeboxes
    return table


def test_spots_come_as_numbers():
    table = make_table([(1, 2, 3), (4, 5, 6), (0, 0, 0)], ("predicted", "integrated_sum"))
    table.set_flags(flex.size_t([1]), table.flags.strong)
    table.unset_flags(flex.size_t([0]), table.flags.integrated_sum)
    spots = spots_of(table, make_detector())
    np.testing.assert_array_equal(spots.hkl, [(1, 2, 3), (4, 5, 6)])
    np.testing.assert_array_equal(spots.intensity, [np.nan, 2])
    np.testing.assert_array_equal(spots.variance, [np.nan, 4])
    np.testing.assert_array_equal(spots.partiality, [np.nan, 0.5])
    np.testing.assert_array_equal(spots.predicted_px, [(10, 20), (11, 20)])
    np.testing.assert_array_equal(spots.observed_px, [(np.nan, np.nan), (12, 20)])
    assert spots.foreground.shape == (0, 3)


def test_fitted_intensities_come_before_sums():
    table = make_table([(1, 0, 0), (2, 0, 0)], ("integrated_sum",))
    table["intensity.prf.value"] = flex.double([70, 80])
    table["intensity.prf.variance"] = flex.double([7, 8])
    table.set_flags(flex.size_t([1]), table.flags.integrated_prf)
    spots = spots_of(table, make_detector())
    np.testing.assert_array_equal(spots.intensity, [1, 80])
    np.testing.assert_array_equal(spots.variance, [4, 8])


def test_tables_of_other_images_are_refused():
    table = make_table([(1, 0, 0)])
    table["panel"] = flex.size_t([3])
    with pytest.raises(DataError, match="panel 3"):
        spots_of(table, make_detector())


def test_found_but_not_indexed_spots_are_no_bragg_spots():
    table = make_table([(1, 0, 0)])
    del table["miller_index"]
    with pytest.raises(DataError, match="dials.index"):
        spots_of(table, make_detector())
    assert len(spots_of(None, make_detector())) == 0
    assert len(spots_of(make_table([(0, 0, 0)]), make_detector())) == 0


def test_foreground_is_each_pixel_once_and_inside_the_panel():
    table = add_shoeboxes(
        make_table([(1, 0, 0), (2, 0, 0), (3, 0, 0)]), [(10, 15, 20, 25), (11, 16, 20, 25), (97, 102, 77, 80)]
    )
    foreground = spots_of(table, make_detector()).foreground
    np.testing.assert_array_equal(foreground, [(0, 22, 12), (0, 22, 13), (0, 22, 14), (0, 78, 99)])


def test_cropped_shoeboxes_keep_the_foreground_and_its_values():
    table = add_shoeboxes(make_table([(1, 0, 0), (2, 0, 0)]), [(10, 15, 20, 25), (30, 41, 40, 53)])
    before = spots_of(table, make_detector()).foreground
    cropped = cropped_shoeboxes(table)
    np.testing.assert_array_equal(spots_of(cropped, make_detector()).foreground, before)
    box = cropped["shoebox"][0]
    assert box.bbox == (12, 14, 22, 23, 0, 1)
    np.testing.assert_array_equal(flumpy.to_numpy(box.data).ravel(), [12, 13])
    assert len(table["shoebox"][0].mask) == 25


def test_observations_return_to_integrated_reflections():
    integrated = make_table([(1, 0, 0), (2, 0, 0), (3, 0, 0)], ("predicted", "integrated_sum", "strong"))
    indexed = make_table([(3, 0, 0), (9, 0, 0)], ("strong", "indexed"), x=50.0)
    joined = with_observations(integrated, indexed)
    spots = spots_of(joined, make_detector())
    np.testing.assert_array_equal(spots.hkl[:, 0], [1, 2, 3, 9])
    np.testing.assert_array_equal(spots.observed_px[:, 0], [np.nan, np.nan, 51, 52])
    np.testing.assert_array_equal(spots.predicted_px[:, 0], [10, 11, 12, 51])
    np.testing.assert_array_equal(np.isnan(spots.intensity), [False, False, False, True])
    assert integrated.get_flags(integrated.flags.strong).count(True) == 3


@pytest.mark.parametrize("with_integrated", [False, True])
def test_the_lattice_with_most_spots_is_kept(with_integrated):
    detector = make_detector()
    experiments = [
        Experiment(beam=Beam((0, 0, 1), 1.0), detector=detector, crystal=make_crystal(), identifier=name)
        for name in "abc"
    ]
    tables = [
        make_table([(h, 0, 0) for h in range(1, n)], ("strong", "indexed"), identifier="abc"[number])
        for number, n in enumerate((3, 9, 5))
    ]
    indexed = flex.reflection_table()
    for number, table in enumerate(tables):
        del table.experiment_identifiers()[0]
        table["id"] = flex.int(len(table), number)
        table.experiment_identifiers()[number] = "abc"[number]
        indexed.extend(table)
    still, counts = best_lattice(7, experiments, indexed, indexed if with_integrated else None, False)
    assert counts == (8, 4, 2)
    assert (still.source_index, still.experiment.identifier) == (7, "b")
    assert len(still.reflections) == 8
    assert dict(still.reflections.experiment_identifiers()) == {0: "b"}
    copy = pickle.loads(pickle.dumps(still))
    assert copy.experiment.crystal == still.experiment.crystal
    assert len(copy.reflections) == 8


def test_equal_models_are_shared():
    shared = SharedModels()
    first = Experiment(beam=Beam((0, 0, 1), 1.0), detector=make_detector())
    same = Experiment(beam=Beam((0, 0, 1), 1.0), detector=make_detector())
    other = Experiment(beam=Beam((0, 0, 1), 1.1), detector=make_detector((90, 80)))
    assert shared.models(first) == shared.models(same)
    assert all(a is b for a, b in zip(shared.models(first), shared.models(same), strict=True))
    assert all(a is not b for a, b in zip(shared.models(first), shared.models(other), strict=True))


@pytest.mark.parametrize(
    ("group", "cell", "ambiguous"),
    [
        ("P41212", (58, 58, 150), False),
        ("P41", (58, 58, 150), True),
        ("P212121", (50, 60, 70), False),
        ("P212121", (50, 50.1, 70), True),
        ("P1", (50, 60, 70), True),
        ("P213", (50, 50, 50), True),
        ("P432", (50, 50, 50), False),
    ],
)
def test_lattices_with_more_symmetry_than_the_crystal_are_known(group, cell, ambiguous):
    assert has_indexing_ambiguity(make_crystal(cell, group)) == ambiguous


def test_captured_log_is_collected_and_the_logger_restored(capsys):
    before = list(dials_logger.handlers), dials_logger.propagate, dials_logger.level
    with pytest.raises(ZeroDivisionError), capture_dials_log() as text:
        print("printed")
        logging.getLogger("dials.algorithms").info("logged")
        raise ZeroDivisionError
    assert (list(dials_logger.handlers), dials_logger.propagate, dials_logger.level) == before
    assert text.getvalue() == "printed\nlogged\n"
    assert capsys.readouterr().out == ""


def test_errors_become_one_line_that_is_not_cut():
    assert in_one_line(RuntimeError("\n  what\nelse")) == "what else"
    assert in_one_line(RuntimeError('why\nTraceback (most recent call last):\n  File "x.py", line 1')) == "why"
    assert in_one_line(AssertionError()) == "AssertionError"
    assert len(in_one_line(RuntimeError("word " * 1000))) < 410


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("12 spots found, 16 needed", "lower indexer.a.min_spots"),
        # What dials.find_spots says of a detector whose raw values are no photons.
        ("The number of strong pixels found (1413475) is greater than the maximum allowed (1231)", "detector.gain="),
        ("90000 spots found, at most 1000 allowed", "detector.gain="),
        ("an assertion", "spotfinder.* in a file for indexer.a.phil"),
    ],
)
def test_the_cure_fits_the_reason(reason, advice):
    said = spots_advice(reason, "indexer.a.phil", "indexer.a.min_spots")
    assert said.startswith(advice) or advice in said
    assert ("min_spots" in said) == ("needed" in reason)


def test_a_module_is_stood_in_for_only_where_it_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "json_that_is_missing", raising=False)
    shims._provide("json")
    assert hasattr(sys.modules["json"], "dumps")
    shims._provide("json_that_is_missing")
    monkeypatch.delitem(sys.modules, "json_that_is_missing")


def test_parameters_are_fresh_for_every_image():
    parameters = DialsParameters(
        "dials.command_line.find_spots", "phil_scope", (("test", "spotfinder.filter.d_min = 3"),)
    )
    first, second = parameters.fresh(), parameters.fresh()
    assert first.spotfinder.filter.d_min == 3
    first.spotfinder.filter.d_min = 1
    assert second.spotfinder.filter.d_min == 3


def test_later_texts_win_and_hints_reach_dials():
    hints = CrystalHints((58.0, 58.0, 150.25, 90.0, 90.0, 90.0), "P 41 21 2")
    parameters = DialsParameters(
        "dials.command_line.ssx_index",
        "phil_scope",
        (
            ("a", "min_spots = 7\nindexing.known_symmetry.space_group = P1"),
            ("b", "min_spots = 8"),
            hint_text(hints),
        ),
    )
    params = parameters.fresh()
    assert params.min_spots == 8
    assert params.indexing.known_symmetry.unit_cell.parameters() == pytest.approx(hints.unit_cell)
    assert str(params.indexing.known_symmetry.space_group) == "P 41 21 2"
    unknown = (hint_text(CrystalHints()),)
    nothing = DialsParameters("dials.command_line.ssx_index", "phil_scope", unknown).fresh()
    assert nothing.indexing.known_symmetry.unit_cell is None


@pytest.mark.parametrize(
    "text",
    [
        "spotfinder.unknown = 1",
        "spotfinder {",
        "spotfinder.filter.d_min = three",
        "spotfinder.threshold.algorithm = x",
    ],
)
def test_mistakes_are_found_by_file(text, tmp_path):
    path = tmp_path / "my.phil"
    path.write_text(text)
    with pytest.raises(ConfigError, match="my.phil") as refused:
        DialsParameters("dials.command_line.find_spots", "phil_scope", user_texts((str(path),))).check()
    assert "\n" not in str(refused.value)


def test_parameters_that_live_elsewhere_are_refused(tmp_path):
    path = tmp_path / "my.phil"
    path.write_text("geometry.detector.distance = 100")
    with pytest.raises(ConfigError, match="geometry"):
        user_texts((str(path),))


def test_missing_parameter_files_are_refused(tmp_path):
    assert phil_paths([None]) == () == phil_paths(None)
    with pytest.raises(ConfigError, match="no file"):
        phil_paths([str(tmp_path / "my.phil")])


def test_mosaic_width_is_the_full_one():
    from diffuse_framework.adapters.images.experiments import mosaic_width_deg

    crystal = MosaicCrystalSauter2014(make_crystal())
    crystal.set_half_mosaicity_deg(0.2)
    assert mosaic_width_deg(Experiment(crystal=crystal)) == pytest.approx(0.4)
    assert mosaic_width_deg(Experiment(crystal=make_crystal())) == 0
