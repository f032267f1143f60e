"""Rules that scaling keeps whatever the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.model.voxels import SumsInMemory, concatenate
from support.sums import KnownSums, known_sums

MODELS = (
    ScalingOptions(),
    ScalingOptions(scale="smooth", offset=True, offset_q=0.2, absorption=True),
)
FEW = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def draw(options: ScalingOptions, seed: int) -> KnownSums:
    return known_sums(options, np.random.default_rng(seed), n_images=12, rows_per_image=1500, exposure=5.0)


def scaled(known: KnownSums, options: ScalingOptions, sums: SumsInMemory | None = None) -> SmoothScales:
    recipe = Recipe(options, tolerance=1e-5, max_cycles=60)
    return scale_smoothly(sums or known.sums, known.data_set, known.order, recipe)


@pytest.mark.parametrize("options", MODELS, ids=["b", "b, c and a"])
@given(seed=st.integers(0, 1000), power=st.integers(-3, 6))
@FEW
def test_more_exposure_at_the_same_counts_changes_no_ratio(options, seed, power):
    """Exposure in other units: intensities change by the same factor, scales do not."""
    known = draw(options, seed)
    unit = 2.0**power
    tables = tuple(replace(t, exposure=t.exposure * np.float32(unit)) for t in known.sums.pieces)
    other = SumsInMemory(known.sums.grid, known.sums.image_names, tables)
    ours, theirs = scaled(known, options), scaled(known, options, other)
    np.testing.assert_allclose(theirs.per_image, ours.per_image, rtol=1e-4)
    a, b = poisson_merge(known.sums, ours), poisson_merge(other, theirs)
    np.testing.assert_allclose(b.intensity * unit, a.intensity, rtol=1e-3, atol=1e-3)


@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.5, 3.0, 10.0]))
@FEW
def test_all_counts_times_a_constant_change_no_ratio(seed, factor):
    """Multiplicative scales: the Poisson equation for them is homogeneous in the counts."""
    known = draw(MODELS[0], seed)
    tables = tuple(replace(t, counts=t.counts * np.float32(factor)) for t in known.sums.pieces)
    other = SumsInMemory(known.sums.grid, known.sums.image_names, tables)
    recipe = Recipe(MODELS[0], tolerance=1e-5, outlier_limit=None)
    ours, theirs = (scale_smoothly(s, known.data_set, known.order, recipe) for s in (known.sums, other))
    np.testing.assert_allclose(theirs.per_image, ours.per_image, rtol=1e-3)


@given(seed=st.integers(0, 1000), cut=st.integers(0, 100))
@FEW
def test_how_sums_are_split_changes_nothing(seed, cut):
    options = MODELS[1]
    known = draw(options, seed)
    rng = np.random.default_rng(cut)
    whole = concatenate(list(known.sums.pieces))
    order = rng.permutation(len(whole))
    parts = tuple(whole.select(part) for part in np.array_split(order, 1 + cut % 7))
    other = SumsInMemory(known.sums.grid, known.sums.image_names, parts)
    ours, theirs = scaled(known, options), scaled(known, options, other)
    np.testing.assert_allclose(theirs.parameters, ours.parameters, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", MODELS, ids=["b", "b, c and a"])
@given(seed=st.integers(0, 1000))
@FEW
def test_the_order_of_images_changes_nothing(options, seed):
    """Images are numbered anew, each with its own place in the order of its data set, and read in that order."""
    known = draw(options, seed)
    new = np.random.default_rng(seed).permutation(12)
    tables = tuple(replace(t, image=new[t.image].astype(np.int32)) for t in known.sums.pieces)
    tables = tuple(tables[old] for old in np.argsort(new))
    other = SumsInMemory(known.sums.grid, known.sums.image_names, tables)
    recipe = Recipe(options, tolerance=1e-5, max_cycles=60)
    back = np.argsort(new)
    ours = scaled(known, options)
    theirs = scale_smoothly(other, known.data_set[back], known.order[back], recipe)
    np.testing.assert_allclose(theirs.per_image[new], ours.per_image, rtol=1e-5)
    a, b = poisson_merge(known.sums, ours), poisson_merge(other, theirs)
    np.testing.assert_allclose(b.intensity, a.intensity, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", MODELS, ids=["b", "b, c and a"])
@given(seed=st.integers(0, 1000))
@FEW
def test_a_data_set_merged_with_itself_has_errors_smaller_by_root_two(options, seed):
    known = known_sums(options, np.random.default_rng(seed), n_images=12, rows_per_image=1500, exposure=100.0)
    twice = SumsInMemory(known.sums.grid, known.sums.image_names, known.sums.pieces * 2)
    once, doubled = poisson_merge(known.sums, known.scales), poisson_merge(twice, known.scales)
    np.testing.assert_allclose(doubled.intensity, once.intensity, rtol=1e-9, atol=1e-12)
    # Of few counts the variance follows the shell's too, by less the more there are.
    bright = once.counts > 500
    assert np.count_nonzero(bright) > 50
    np.testing.assert_allclose(doubled.variance[bright] * 2, once.variance[bright], rtol=0.06)
