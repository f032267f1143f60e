"""Runs of the pipeline on data that are already in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from iotbx.phil import parse

from diffuse_framework.config.scope import build_scope
from diffuse_framework.config.selection import select
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.pipeline.process import Outcome, Surroundings, process
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


def make_steps(experiment: Experiment, parameters: str = "", registry: Registry | None = None) -> Steps:
    """Return the default plugins with `parameters` (PHIL text), and an indexer that knows the answer."""
    registry = registry or load_registry()
    params = build_scope(registry).fetch(parse(parameters)).extract()
    chosen = {stage: select(registry, params, stage) for stage in STAGES if stage != "indexer"}
    return Steps(
        indexer=KnownOrientations(experiment),
        maskers=chosen.pop("masker"),
        correctors=chosen.pop("corrector"),
        **chosen,
    )


def run_pipeline(
    source: ImageSource,
    experiment: Experiment,
    parameters: str = "",
    around: Surroundings | None = None,
    registry: Registry | None = None,
) -> Outcome:
    """Run all stages after indexing on `source`, in this process unless `around` says otherwise."""
    around = around or Surroundings(folder=Path(), mapper=SerialEngine())
    steps = make_steps(experiment, parameters, registry)
    return process(source, steps, CrystalHints(), replace, around)
