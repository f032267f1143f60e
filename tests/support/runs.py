"""Runs on data that are already in memory, with orientations that are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework.api import make_steps as steps_of
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.host.registry import Registry
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.pipeline.process import Outcome
from diffuse_framework.pipeline.run import IN_MEMORY, RunSettings, run
from diffuse_framework.stages.steps import Steps
from diffuse_framework.stages.work import Mapper


@dataclass(frozen=True, eq=False)
class KnownOrientations:
    """An indexer that knows the answer."""

    name: ClassVar[str] = "known"
    phil: ClassVar[str] = ""
    experiment: Experiment

    @classmethod
    def from_params(cls, params: Any) -> KnownOrientations:
        """Refuse: it is made with an experiment."""
        raise TypeError("KnownOrientations is made with an experiment")

    def index(self, source: ImageSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the experiment."""
        return self.experiment


def known_steps(experiment: Experiment, parameters: str = "", registry: Registry | None = None) -> Steps:
    """Return the plugins that `parameters` select, with an indexer that knows the answer, which is trusted."""
    trusting = "validator.plugins = None\nreindexer.plugin = as_indexed\n"
    return steps_of(trusting + parameters, registry, indexer=KnownOrientations(experiment))


def run_known(
    source: ImageSource,
    experiment: Experiment,
    parameters: str = "",
    mapper: Mapper | None = None,
    settings: RunSettings = IN_MEMORY,
    registry: Registry | None = None,
) -> Outcome:
    """Run all stages after indexing on `source`, in this process unless `mapper` says otherwise."""
    return run(source, known_steps(experiment, parameters, registry), mapper or SerialEngine(), settings)
