"""Any valid choice of plugins and parameters completes, or refuses with an error of ours; and rules of the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from iotbx.phil import parse

from diffuse_framework.algorithms.indexing.ambiguity import reindexed_image
from diffuse_framework.config.scope import build_scope
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import DiffuseError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Plugin
from diffuse_framework.pipeline.run import RunSettings
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_framework.testing.fakes import FramesInMemory
from support.runs import run_known
from support.selections import parameters, selections

REGISTRY = load_registry()
# What lets plugins work that do nothing by default, and a grid coarse enough that images overlap.
FIRST = """
corrector.background.constant = 0.2
masker.bragg.radius = 1
masker.bragg.excitation_error = 0.001
masker.bragg.unpredicted = False
absolute_scaler.krogh_moe.contents.formula = C270 H420 N70 O80 S2
absolute_scaler.norman.contents.formula = C270 H420 N70 O80 S2
absolute_scaler.wilson.contents.formula = C270 H420 N70 O80 S2
"""
LAST = "grid.hkl.divisions = 2 2 2\ngrid.hkl.d_min = 3.5\n"
# Six images of few bright pixels: whether one stays depends on single pixels.
LAST += "validator.images.min_bright = 0\n"

# About 0.6 of the draws make a map. A refusal is right, but a rule that only ever saw refusals would say nothing.
LEAST_SHARE = 0.2


def on_maps(examples, **strategies):
    """Try a rule on draws until so many of them made a map; fail where less than a share of the draws did.

    The rule takes data and what is drawn, and returns whether there was a map.
    """

    def decorate(rule):
        def test(data):
            made = []

            # Whole runs are slow to make small, and a selection says by itself what it is.
            @settings(max_examples=examples, deadline=None, phases=[Phase.generate])
            @given(**strategies)
            def draw(**drawn):
                made.append(rule(data, **drawn))
                assume(made[-1])

            draw()
            assert sum(made) >= max(1, LEAST_SHARE * len(made)), f"{sum(made)} of {len(made)} draws made a map"

        test.__doc__ = rule.__doc__
        return test

    return decorate


def ours(plugin: Plugin) -> bool:
    """Our plugins, without the scaler whose minimiser is for small problems and takes minutes on others."""
    return plugin.package == "diffuse_framework" and plugin.name != "dials_target"


def not_on_the_brink(plugin: Plugin) -> bool:
    """Not the absolute scaler that refuses by how many shells have peaks above noise: rounding may tell."""
    return ours(plugin) and plugin.name != "wilson"


def no_judge_of_noise(plugin: Plugin) -> bool:
    """Not those by which twice the photons say more: maskers that tell what stands out, and restraints of a scaler."""
    return ours(plugin) and plugin.name not in ("dynamic", "bragg", "smooth")


@pytest.fixture(scope="module")
def data():
    """Six stills on 150 x 140 pixels, in memory."""
    detector = one_panel((150, 140), 70.0, header_beam(1.0), pixel_mm=0.6)
    made = simulate(SimulationSettings(n_images=6, counts_per_pixel=4.0, detector=detector, seed=2))
    frames = tuple(made.source.read(number) for number in range(len(made.source)))
    seconds = (made.source.exposure_s(0),) * len(frames)
    images = tuple(replace(image, spots=with_foreground(image.spots)) for image in made.experiment.images)
    return FramesInMemory(frames, detector.geometry, seconds), replace(made.experiment, images=images)


def with_foreground(spots):
    """Spots with the pixel each is centred on, as integration would have left them."""
    return replace(spots, foreground=np.column_stack([spots.panel, spots.predicted_px[:, ::-1]]).astype(np.int32))


def run(data, selection, experiment=None, source=None, mapper=None, chunk=4):
    """The merged map of one run, None where a plugin refuses."""
    try:
        text = f"{FIRST}\n{selection}\n{LAST}"
        settings = RunSettings(chunk_size=chunk)
        return run_known(source or data[0], experiment or data[1], text, mapper, settings, REGISTRY).map.merged
    except DiffuseError as error:
        assert str(error)
        return None


def alike(a, b, rtol=1e-3):
    """Check that two maps agree to rounding and to the tolerance of an iteration; return whether there are any."""
    if a is None or b is None:
        assert a is None and b is None
        return False
    size = np.abs(a.intensity).mean()
    assert np.array_equal(a.voxel, b.voxel)
    assert np.allclose(a.intensity, b.intensity, rtol=rtol, atol=rtol * size)
    return True


@on_maps(12, selection=selections(REGISTRY, ours))
def test_every_selection_completes_or_refuses_in_words(data, selection):
    merged = run(data, selection)
    if merged is None:
        return False
    assert len(merged) > 0
    assert np.isfinite(merged.intensity).all() and (merged.variance > 0).all()
    assert (merged.multiplicity > 0).all()
    return True


@on_maps(6, selection=selections(REGISTRY, not_on_the_brink))
def test_the_order_of_images_is_irrelevant(data, selection):
    backwards = replace(data[1], images=data[1].images[::-1])
    return alike(run(data, selection), run(data, selection, backwards))


def test_a_sample_of_images_and_what_it_says_do_not_depend_on_their_order(data):
    """With the default maskers, which learn from some of the images; also where the source has another order."""
    selection = "masker.bragg.n_images = 3\nmasker.bragg.share = 0.5\n"
    selection += "masker.dynamic.n_images = 5\nmasker.dynamic.max_images = 5"
    source, experiment = data
    backwards = replace(experiment, images=experiment.images[::-1])
    turned = replace(source, frames=source.frames[::-1])
    last = len(source.frames) - 1
    other = replace(
        experiment, images=tuple(replace(image, source_index=last - image.source_index) for image in experiment.images)
    )
    found = [
        run_known(one, images, f"{selection}\n{LAST}", registry=REGISTRY).map.merged
        for one, images in ((source, experiment), (source, backwards), (turned, other))
    ]
    for merged in found[1:]:
        assert np.array_equal(merged.voxel, found[0].voxel)
        assert np.array_equal(merged.pixels, found[0].pixels)
        np.testing.assert_allclose(merged.counts, found[0].counts, rtol=1e-6)
        np.testing.assert_allclose(merged.intensity, found[0].intensity, rtol=1e-4)


@on_maps(6, selection=selections(REGISTRY, ours), seed=st.randoms(use_true_random=False))
def test_the_order_of_maskers_and_correctors_is_irrelevant(data, selection, seed):
    lines = []
    for line in selection.splitlines():
        name, _, value = line.partition(" = ")
        if name.endswith(".plugins"):
            names = value.split()
            seed.shuffle(names)
            value = " ".join(names)
        lines.append(f"{name} = {value}")
    return alike(run(data, selection), run(data, "\n".join(lines)))


@on_maps(6, selection=selections(REGISTRY, ours), chunk=st.integers(1, 7))
def test_the_engine_and_the_size_of_chunks_are_irrelevant(data, selection, chunk):
    other = run(data, selection, mapper=process_engine(2), chunk=chunk)
    return alike(run(data, selection), other, rtol=1e-5)


@on_maps(6, selection=selections(REGISTRY, ours), number=st.integers(1, 3))
def test_a_symmetry_operation_on_the_input_is_irrelevant(data, selection, number):
    # Whether Wilson's plot has shells enough may hang on a single one.
    selection += "\nabsolute_scaler.plugin = unit"
    operators = data[1].symmetry.operators
    proper = [operator for operator in operators if np.linalg.det(operator) > 0]
    images = tuple(reindexed_image(image, proper[number]) for image in data[1].images)
    a, b = run(data, selection), run(data, selection, replace(data[1], images=images))
    if a is None or b is None:
        assert a is None and b is None
        return False
    # A pixel on the border of two voxels may change sides with the last bit.
    common, in_a, in_b = np.intersect1d(a.voxel, b.voxel, return_indices=True)
    assert len(common) >= 0.995 * max(len(a), len(b))
    assert np.corrcoef(a.intensity[in_a], b.intensity[in_b])[0, 1] > 0.995
    return True


@on_maps(6, selection=selections(REGISTRY, no_judge_of_noise))
def test_doubled_exposure_and_counts_give_the_same_map(data, selection):
    source, experiment = data
    frames = tuple(
        replace(frame, counts=tuple(np.where(c > 0, 2 * c, c) for c in frame.counts)) for frame in source.frames
    )
    doubled = replace(source, frames=frames, seconds=tuple(2 * s for s in source.seconds))
    images = tuple(replace(image, exposure_s=2 * image.exposure_s) for image in experiment.images)
    # Doubled counts scatter less than photons do: what is an outlier changes.
    selection += "\nscaler.per_image.outliers.limit = None\nscaler.smooth.outliers.limit = None\n"
    return alike(run(data, selection), run(data, selection, replace(experiment, images=images), doubled))


@pytest.mark.parametrize("plugin", REGISTRY.plugins.values(), ids=lambda plugin: f"{plugin.stage}-{plugin.name}")
def test_parameters_drawn_for_a_plugin_are_valid(plugin):
    scope = build_scope(REGISTRY)

    @settings(max_examples=10, deadline=None)
    @given(text=parameters(plugin))
    def extracts(text):
        working, unused = scope.fetch(parse(text), track_unused_definitions=True)
        assert not unused
        params = getattr(getattr(working.extract(), plugin.stage), plugin.name, None)
        try:
            plugin.factory.from_params(params)
        except DiffuseError as error:
            assert str(error)

    extracts()
