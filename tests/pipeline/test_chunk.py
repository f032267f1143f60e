"""Images of a chunk are read ahead; that may change nothing but the time it takes."""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DataError
from diffuse_framework.model.source import Frame
from diffuse_framework.model.voxels import COLUMNS, SumsTable, concatenate
from diffuse_framework.pipeline.chunk import ChunkWork
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from support.runs import known_steps


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(SimulationSettings(n_images=4, counts_per_pixel=0.5, seed=4))


def work_on(simulation: Simulation, source: Any = None) -> ChunkWork:
    source = source or simulation.source
    experiment = simulation.experiment
    steps = known_steps(experiment, "grid.hkl.divisions = 2 2 2\ngrid.hkl.d_min = 2.5")
    maskers = tuple(m.prepare(simulation.source, experiment, SerialEngine()) for m in steps.maskers)
    grid = steps.grid.build(experiment)
    return ChunkWork(source, experiment, grid, maskers, steps.correctors, steps.accumulator)


def same(a: SumsTable, b: SumsTable) -> bool:
    return all((getattr(a, name) == getattr(b, name)).all() for name in COLUMNS)


@dataclass
class Watched:
    """A source that writes down what is read, and fails where it is told to."""

    source: Any
    damaged: int = -1
    read_numbers: list[int] = field(default_factory=list)
    second_read: threading.Event = field(default_factory=threading.Event)

    def read(self, index: int) -> Frame:
        self.read_numbers.append(index)
        if len(self.read_numbers) == 2:
            self.second_read.set()
        if index == self.damaged:
            raise DataError("cut short")
        return self.source.read(index)

    def trusted_pixels(self, index: int) -> Any:
        return self.source.trusted_pixels(index)


def test_a_chunk_is_the_sum_of_its_images(simulation):
    work = work_on(simulation)
    together = work(range(4))
    assert same(together, concatenate([work(range(n, n + 1)) for n in range(4)]))
    assert same(together, pickle.loads(pickle.dumps(work))(range(4)))
    assert len(work(range(0))) == 0


def test_the_next_image_is_read_before_one_is_added(simulation):
    source = Watched(simulation.source)
    work = work_on(simulation, source)
    began: list[bool] = []
    work._write_pixels = lambda *_: began.append(source.second_read.wait(timeout=60))
    work(range(3))
    assert began[0]
    assert source.read_numbers == [0, 1, 2]


def test_what_reading_raises_passes_through_and_leaves_no_thread(simulation):
    before = threading.active_count()
    with pytest.raises(DataError, match="cut short"):
        work_on(simulation, Watched(simulation.source, damaged=2))(range(4))
    assert threading.active_count() == before


def test_what_adding_raises_leaves_no_thread(simulation):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    work = work_on(simulation, Watched(simulation.source))
    work._write_pixels = interrupt
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        work(range(4))
    assert threading.active_count() == before
