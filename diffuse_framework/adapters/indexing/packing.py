"""DIALS's objects as text and bytes, for the way from a worker and for what outlasts a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dials.util.version import dials_version
from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.fingerprint import code_versions

if TYPE_CHECKING:
    from dials.array_family import flex
    from dxtbx.model import Crystal

VERSIONS = (*code_versions(), dials_version())

Packed = tuple[str, bytes | None]
"""An experiment as JSON, its other crystals after it, and its reflection table in msgpack, None where there is none."""


def pack(experiment: Experiment, table: flex.reflection_table | None, other_crystals: Iterable[Crystal] = ()) -> Packed:
    """Take an experiment without images, its reflection table or None, and further crystals of its image apart.

    JSON changes last digits of a crystal, so what is packed once should always be: then any engine, and
    a run that goes on where another stopped, gives the same.
    """
    others = [Experiment(crystal=crystal) for crystal in other_crystals]
    content = json.dumps(ExperimentList([experiment, *others]).to_dict())
    return content, None if table is None else table.as_msgpack()


def unpack(packed: Packed) -> tuple[Experiment, flex.reflection_table | None, tuple[Crystal, ...]]:
    """Return the experiment, the reflection table and the other crystals that `pack` took apart."""
    from dials.array_family import flex

    content, table = packed
    experiment, *others = ExperimentListFactory.from_dict(json.loads(content), check_format=False)
    reflections = None if table is None else flex.reflection_table.from_msgpack(table)
    return experiment, reflections, tuple(other.crystal for other in others)


def model_texts(experiment: Experiment) -> tuple[str, ...]:
    """Return beam, detector, goniometer and scan of an experiment as text."""
    models = (experiment.beam, experiment.detector, experiment.goniometer, experiment.scan)
    return tuple(json.dumps(model.to_dict(), sort_keys=True) for model in models if model is not None)
