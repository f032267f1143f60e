"""Stills of two crystals: the map of the one is not spoilt by the Bragg peaks of the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from diffuse_framework.algorithms.binning import shell_numbers
from diffuse_framework.model.source import Frame
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from support.runs import run_known

SETTINGS = SimulationSettings(
    n_images=10,
    counts_per_pixel=2.0,
    cell=(24.0, 27.0, 31.0, 90.0, 90.0, 90.0),
    detector=one_panel((200, 190), 30.0, header_beam(1.0)),
    seed=1,
)


@dataclass(frozen=True, eq=False)
class Together:
    """The photons of two sources on the same images."""

    first: Any
    second: Any

    def __getattr__(self, name):
        if name.startswith("__") or name == "first":
            raise AttributeError(name)
        return getattr(self.first, name)

    def __len__(self):
        return len(self.first)

    def read(self, index):
        """The sum of both."""
        one, other = self.first.read(index), self.second.read(index)
        return Frame(one.name, tuple(a + np.maximum(b, 0) for a, b in zip(one.counts, other.counts, strict=True)))


def bright_voxels(merged) -> int:
    """Voxels above three times the median of their shell."""
    shell, _ = shell_numbers(np.linalg.norm(merged.grid.q_of(merged.voxel), axis=1), 20)
    return sum(
        int((merged.intensity[shell == n] > 3 * np.median(merged.intensity[shell == n])).sum())
        for n in np.unique(shell)
    )


@pytest.fixture(scope="module")
def two():
    """A crystal, and a second one that scatters half as much."""
    first = simulate(SETTINGS)
    second = simulate(replace(SETTINGS, counts_per_pixel=1.0, seed=2))
    return first, second, Together(first.source, second.source)


@pytest.mark.parametrize(
    "parameters",
    [
        "masker.plugins = trusted bragg\nmasker.bragg.radius = 5\nmasker.bragg.unpredicted = False",
        "masker.plugins = trusted reciprocal\nmasker.reciprocal.radius = 0.006",
    ],
    ids=["bragg", "reciprocal"],
)
def test_peaks_of_all_lattices_are_masked(two, parameters):
    first, second, source = two
    # What the mask does, without what the rejection of outliers would mend.
    parameters += "\nscaler.per_image.outliers.limit = None"
    both = replace(
        first.experiment,
        images=tuple(
            replace(image, other_lattices=(other.setting_matrix,))
            for image, other in zip(first.experiment.images, second.experiment.images, strict=True)
        ),
    )
    ignored = bright_voxels(run_known(source, first.experiment, parameters).map.merged)
    masked = bright_voxels(run_known(source, both, parameters).map.merged)
    alone = bright_voxels(run_known(first.source, first.experiment, parameters).map.merged)
    assert ignored > 100
    assert masked < 0.1 * ignored + alone
