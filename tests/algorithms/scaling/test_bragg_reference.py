from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.factors import polarization
from diffuse_framework.algorithms.geometry import q_at_px
from diffuse_framework.algorithms.scaling.bragg_reference import bragg_reference
from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image
from diffuse_framework.testing.fakes import geometry, orthorhombic_symmetry
from support.sums import known_sums

PARTIALITY_ERROR = 0.1


def experiment_with_spots(scales: np.ndarray, rng: np.random.Generator) -> Experiment:
    """Stills of 150 reflections each, of intensities about 10^4, with errors of their partialities."""
    model = geometry()
    unique = np.stack(np.meshgrid(*[np.arange(1, 8)] * 3), axis=-1).reshape(-1, 3)
    strength = rng.gamma(2.0, 5e3, len(unique))
    images = []
    for number, scale in enumerate(scales):
        chosen = rng.choice(len(unique), 150, replace=False)
        signs = rng.choice([-1, 1], (150, 3))
        px = rng.uniform([0, 0], [50, 60], (150, 2))
        panel = np.zeros(150, np.int32)
        factor = polarization(q_at_px(model, panel, px) + model.beam.s0, model.beam)
        partiality = rng.uniform(0.05, 1.0, 150)
        wrong = rng.normal(1, PARTIALITY_ERROR, 150)
        intensity = rng.poisson(scale * 0.5 * factor * partiality * strength[chosen]) * wrong
        spots = BraggSpots(
            unique[chosen] * signs,
            intensity,
            np.maximum(intensity, 1.0),
            partiality,
            panel,
            px,
            px,
            np.zeros((0, 3), np.int32),
        )
        images.append(Image(f"i{number}", number, 0, 0.5, np.eye(3), spots=spots))
    return Experiment((model,), orthorhombic_symmetry(), tuple(images))


def test_reflections_add_to_what_diffuse_counts_say_of_the_scales():
    options = ScalingOptions()
    known = known_sums(options, np.random.default_rng(1), n_images=30, rows_per_image=1500, exposure=0.1)
    experiment = experiment_with_spots(known.scales.per_image, np.random.default_rng(2))
    reflections = bragg_reference(experiment, known.sums.grid, 0.2, PARTIALITY_ERROR)
    assert len(np.unique(reflections.voxel)) == len(reflections.q) <= 343
    arguments = known.sums, known.data_set, known.order, Recipe(options, outlier_limit=None)
    alone, helped = scale_smoothly(*arguments), scale_smoothly(*arguments, reflections=reflections)
    assert helped.statistics["converged"]
    assert (helped.per_image_sigma < 0.3 * alone.per_image_sigma).all()
    z = (helped.per_image - known.scales.per_image) / helped.per_image_sigma
    assert np.sqrt(np.mean(z**2)) < 1.5


def test_weakly_recorded_reflections_and_those_not_integrated_are_left_out():
    known = known_sums(ScalingOptions(), np.random.default_rng(1), n_images=4, rows_per_image=10)
    experiment = experiment_with_spots(np.ones(4), np.random.default_rng(2))
    for image in experiment.images:
        image.spots.intensity[:30] = np.nan
    rows = bragg_reference(experiment, known.sums.grid, 0.5, 0.1).rows
    smallest = min(s.partiality[30:][s.partiality[30:] >= 0.5].min() for s in (i.spots for i in experiment.images))
    assert len(rows) < 4 * 120 * 0.6
    assert rows["exposure"].min() >= 0.5 * smallest * 0.4
    assert np.isfinite(rows["counts"]).all()


def test_no_common_reflections_is_an_error():
    known = known_sums(ScalingOptions(), np.random.default_rng(1), n_images=2, rows_per_image=10)
    experiment = experiment_with_spots(np.ones(2), np.random.default_rng(2))
    with pytest.raises(DataError, match="on two images"):
        bragg_reference(replace(experiment, images=experiment.images[:0]), known.sums.grid, 0.2, 0.1)
