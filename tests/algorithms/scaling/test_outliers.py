from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.scaling.components import Extent
from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions, same_for_all
from diffuse_framework.algorithms.scaling.observations import gather
from diffuse_framework.algorithms.scaling.outliers import find_outliers, outlier_report
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.model.scales import ErrorModel
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsInMemory, SumsTable
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import known_sums


def one_voxel(counts: list[float]) -> tuple[SumsInMemory, SmoothScales]:
    """One voxel, seen once by each image."""
    tables = []
    for image, count in enumerate(counts):
        columns = {name: np.zeros(1, COLUMN_TYPES[name]) for name in COLUMNS}
        columns |= {
            "image": np.array([image], np.int32),
            "voxel": np.array([17]),
            "counts": np.array([count], np.float32),
            "exposure": np.ones(1, np.float32),
            "pixels": np.ones(1, np.int32),
        }
        tables.append(SumsTable(**columns))
    n = len(counts)
    layout = same_for_all(Extent(np.zeros(n, np.int64), np.arange(n, dtype=float), (0.1, 0.2), np.zeros((1, 4))))
    grid = orthorhombic_grid()
    scales = SmoothScales(grid, layout, layout.null(), np.zeros(layout.size), np.zeros(1))
    return SumsInMemory(grid, tuple(f"i{k}" for k in range(n)), tuple(tables)), scales


GOOD = [103.0, 95.0, 101.0, 110.0, 92.0, 99.0, 104.0, 97.0, 100.0]


@pytest.mark.parametrize(("bad", "sign"), [(1000.0, 1), (5.0, -1)])
def test_one_bad_value_goes_and_nine_good_ones_stay(bad, sign):
    sums, scales = one_voxel([*GOOD, bad])
    found = find_outliers(gather(sums)[0], scales, 6.0, ErrorModel())
    assert found.keys.tolist() == [[9, 17, 0, 0]]
    assert np.sign(found.deviation).tolist() == [sign]


def test_several_bad_values_go_one_after_another():
    sums, scales = one_voxel([*GOOD, 1000.0, 400.0, 3.0])
    found = find_outliers(gather(sums)[0], scales, 6.0, ErrorModel())
    assert sorted(found.keys[:, 0].tolist()) == [9, 10, 11]


def test_of_two_that_disagree_neither_goes_and_neither_counts_for_the_scales():
    sums, scales = one_voxel([100.0, 1000.0])
    found = find_outliers(gather(sums)[0], scales, 6.0, ErrorModel())
    assert len(found) == 0
    assert found.disputed == 1
    assert not found.accepted.any()


def test_good_data_lose_what_a_normal_distribution_says():
    known = known_sums(ScalingOptions(), np.random.default_rng(1), n_images=40, rows_per_image=4000)
    found = find_outliers(gather(known.sums)[0], known.scales, 4.0, ErrorModel())
    # 160000 observations; 6.3e-5 lie beyond 4 sigma on either side. Poisson tails are a little longer.
    assert len(found) < 30


def test_planted_outliers_are_found_and_reported_by_image_panel_and_voxel():
    options = ScalingOptions()
    known = known_sums(options, np.random.default_rng(4), n_images=30, rows_per_image=3000, exposure=20.0)
    bad = np.arange(0, 3000, 100)
    table = known.sums.pieces[7]
    counts = table.counts.copy()
    counts[bad] = 10 * counts[bad] + 100
    tables = (*known.sums.pieces[:7], replace(table, counts=counts), *known.sums.pieces[8:])
    planted = SumsInMemory(known.sums.grid, known.sums.image_names, tables)
    scales = scale_smoothly(planted, known.data_set, known.order, Recipe(options))
    report = scales.statistics["outliers"]
    assert report["by_image"][known.sums.image_names[7]] >= 28
    assert report["rejected"] < 35
    assert sum(report["by_panel"].values()) == report["rejected"] == len(scales.rejected)
    assert report["too_high"] >= 28
    assert np.count_nonzero(~scales.keep(tables[7])) == report["by_image"][known.sums.image_names[7]]
    assert abs(scales.per_image[7] / known.scales.per_image[7] - 1) < 5 * scales.per_image_sigma[7]


def test_a_report_of_no_outliers_is_empty():
    sums, scales = one_voxel(GOOD)
    report = outlier_report(find_outliers(gather(sums)[0], scales, 6.0, ErrorModel()), sums.image_names, 9)
    assert report["rejected"] == 0
    assert report["by_image"] == {}
