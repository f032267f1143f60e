"""Ten good and ten bad maps of simulated images: the verdict is right on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.source import Frame
from diffuse_framework.report.checks import BAD, GOOD, LOOK
from diffuse_framework.report.limits import grade
from diffuse_framework.report.verdict import Judgement, judge
from diffuse_framework.simulate.crystals import primitive_symmetry
from diffuse_framework.simulate.detector import header_beam, pilatus
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from diffuse_framework.simulate.intensity import BraggParameters, DiffuseParameters
from diffuse_framework.simulate.rotation import RotationSettings
from support.runs import known_steps, run_known

# One module of a PILATUS detector: 40 images of it take a second.
BASE = SimulationSettings(
    n_images=40,
    counts_per_pixel=1.0,
    cell=(22.0, 25.0, 29.0, 90.0, 90.0, 90.0),
    detector=pilatus((1, 1), 45.0, header_beam(1.0)),
    seed=5,
)
GRID = """
grid.hkl.divisions = 2 2 2
grid.hkl.d_min = 2.5
corrector.plugins = solid_angle polarization efficiency
"""
KEEP_OUTLIERS = "scaler.per_image.outliers.limit = None\n"


@dataclass(frozen=True, eq=False)
class Altered:
    """The images of a source after something went wrong with their counts; masked pixels stay masked."""

    source: Any
    change: Callable[[int, np.ndarray], np.ndarray]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Frame:
        frame = self.source.read(index)
        counts = tuple(np.where(c >= 0, self.change(index, np.maximum(c, 0)), c) for c in frame.counts)
        return replace(frame, counts=counts)


def gain(factor: float) -> Callable[[Simulation], Any]:
    return lambda simulation: Altered(simulation.source, lambda index, counts: np.rint(factor * counts))


def pedestal(simulation: Simulation) -> Any:
    return Altered(simulation.source, lambda index, counts: counts + 40)


def zingers(simulation: Simulation) -> Any:
    """Tracks of a few pixels each, too dim for a mask of single pixels."""

    def hit(index: int, counts: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(index)
        hits = rng.random(counts.shape) < 0.0002
        tracks = np.logical_or.reduce([np.roll(hits, n, axis=1) for n in range(8)])
        return counts + 25 * tracks

    return Altered(simulation.source, hit)


def shadows(simulation: Simulation) -> Any:
    """Something in the beam takes three quarters of the light from a part of each image, another part every time."""

    def shade(index: int, counts: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(index)
        light = np.ones(counts.shape)
        slow, fast = (rng.integers(0, n // 2) for n in counts.shape)
        light[slow : slow + counts.shape[0] // 2, fast : fast + counts.shape[1] // 2] = 0.25
        return rng.binomial(counts.astype(int), light)

    return Altered(simulation.source, shade)


def second_lattice(simulation: Simulation) -> Any:
    """Another crystal of the same kind in the beam, whose peaks nobody predicts."""
    other = simulate(replace(BASE, seed=6)).source
    return Altered(simulation.source, lambda index, counts: counts + np.maximum(other.read(index).counts[0], 0))


def decaying(simulation: Simulation) -> Any:
    """The crystal loses seven eighths of its scattering, and the beam stays."""
    rng = np.random.default_rng(1)
    n = len(simulation.source)
    return Altered(
        simulation.source, lambda index, counts: rng.binomial(counts.astype(int), np.exp(-2.1 * index / (n - 1)))
    )


def wrong_orientations(experiment: Experiment) -> Experiment:
    """Each image has the orientation of the next."""
    matrices = [image.setting_matrix for image in experiment.images]
    turned = zip(experiment.images, matrices[1:] + matrices[:1], strict=True)
    return replace(experiment, images=tuple(replace(image, setting_matrix=a) for image, a in turned))


@dataclass(frozen=True)
class Case:
    """A data set and how it is processed.

    Attributes:
        changes: of the simulation.
        parameters: of the run.
        source: what becomes of the images.
        experiment: what becomes of their orientations.
        says: what the verdict must say of a bad map, in its sentence or in a point.
        grade: of a bad map.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    parameters: str = ""
    source: Callable[[Simulation], Any] | None = None
    experiment: Callable[[Experiment], Experiment] | None = None
    says: str = ""
    grade: str = BAD


GOOD_MAPS = {
    "stills": Case(),
    "bright": Case({"counts_per_pixel": 10.0}),
    "dim": Case({"counts_per_pixel": 0.4}),
    "another crystal": Case({"seed": 11}),
    "tetragonal": Case(
        {"symmetry": primitive_symmetry("P43212"), "cell": (25.0, 25.0, 31.0, 90.0, 90.0, 90.0)},
    ),
    "a sweep": Case({"rotation": RotationSettings(width_deg=1.0), "n_images": 70}),
    "uneven images": Case({"scale_spread": 0.4}),
    "the smooth scaler": Case(parameters="scaler.plugin = smooth\n"),
    "without peaks": Case({"bragg": BraggParameters(photons=0.0)}, "merger.plugin = inverse_variance\n"),
    "zingers, which are masked or rejected": Case(source=zingers),
    "one voxel a lattice point": Case(parameters="grid.hkl.divisions = 1 1 1\n"),
}
BAD_MAPS = {
    "no photons": Case({"counts_per_pixel": 0.003}, says="NO anisotropic signal"),
    "nothing but rings": Case({"diffuse": DiffuseParameters(halo=0.0, cloud=0.0)}, says="NO anisotropic signal"),
    "wrong orientations": Case(experiment=wrong_orientations, says="NO anisotropic signal"),
    "no mask of peaks": Case(parameters=KEEP_OUTLIERS + "masker.plugins = trusted\n", says="Bragg positions"),
    "a mask too small": Case(parameters=KEEP_OUTLIERS + "masker.bragg.radius = 1.5\n", says="Bragg positions"),
    "three images": Case({"n_images": 3}, says="of the asymmetric unit was observed"),
    "counts are eight times the photons": Case(source=gain(8), says="Chi squared per observation is 8"),
    "a pedestal that stayed": Case(source=pedestal, says="images agree better than photons can", grade=LOOK),
    "a shadow that moves": Case(source=shadows, parameters=KEEP_OUTLIERS, says="Chi squared per observation is"),
    "a second lattice": Case(
        source=second_lattice, parameters=KEEP_OUTLIERS, says="differ between halves by more than 6 sigma"
    ),
    "a crystal that decays": Case(source=decaying, says="Scales drift by a factor of 0.1"),
}


def judged(case: Case) -> Judgement:
    simulation = simulate(replace(BASE, **case.changes))
    source = case.source(simulation) if case.source else simulation.source
    experiment = case.experiment(simulation.experiment) if case.experiment else simulation.experiment
    parameters = GRID + case.parameters
    outcome = run_known(source, experiment, parameters)
    merger = known_steps(experiment, parameters).merger
    return judge(outcome.map.merged, outcome.sums, outcome.scales, merger.merge)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD_MAPS)
def test_a_good_map_is_called_good(name):
    found = judged(GOOD_MAPS[name]).verdict
    assert found.grade == GOOD, found
    # Of dim images the outer shells have CC1/2 near the limit.
    assert found.evidence.resolution == pytest.approx(2.5, abs=0.01 if name != "dim" else 0.5)
    assert found.sentence.startswith("anisotropic signal to 2.") and found.sentence.endswith("; nothing to look at")


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_MAPS)
def test_a_bad_map_is_called_bad_and_says_why_and_what_to_type(name):
    found = judged(BAD_MAPS[name]).verdict
    assert found.grade == BAD_MAPS[name].grade, found
    assert BAD_MAPS[name].says in "\n".join([found.sentence, *(point.what for point in found.points)]), found
    assert all(point.do for point in found.points)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("chi_squared_high", 1.05, GOOD),
        ("chi_squared_low", 0.95, GOOD),
        ("chi_squared_low", 0.77, LOOK),
        ("chi_squared_high", 25.0, BAD),
        ("nodes", 0.0981, BAD),
        ("completeness", 0.9, GOOD),
        ("completeness", 0.49, BAD),
    ],
)
def test_what_once_read_as_good_no_longer_does(name, value, expected):
    assert grade(name, value) == expected
