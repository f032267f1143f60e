from __future__ import annotations

import os

import pytest

from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.engine.processes import available_cpus, process_engine
from diffuse_framework.errors import DataError


class Square:
    def __call__(self, x):
        return x * x


class Failing:
    def __call__(self, x):
        if x == 3:
            raise DataError("image 3 is bad")
        return x


class Dying:
    def __call__(self, x):
        os._exit(9)


ENGINES = {"serial": SerialEngine(), "processes": process_engine(2)}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_results_come_in_order(engine):
    assert list(engine.map(Square(), range(20))) == [x * x for x in range(20)]


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_what_the_work_raises_passes_through(engine):
    with pytest.raises(DataError, match="image 3"):
        list(engine.map(Failing(), range(20)))


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_only_a_few_items_are_taken_ahead(engine):
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = engine.map(Square(), items())
    next(results)
    assert len(taken) <= 6
    results.close() if hasattr(results, "close") else None


def test_a_worker_that_dies_is_said():
    with pytest.raises(DataError, match="worker process died"):
        list(process_engine(2).map(Dying(), range(4)))


def test_one_worker_needs_no_process():
    assert isinstance(process_engine(1), SerialEngine)
    assert available_cpus() >= 1
