"""DIALS's objects as text and bytes, for the way from a worker and for what outlasts a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dials.util.version import dials_version
from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.fingerprint import code_versions

if TYPE_CHECKING:
    from dials.array_family import flex

VERSIONS = (*code_versions(), dials_version())

Packed = tuple[str, bytes | None]
"""An experiment as JSON and its reflection table in msgpack, None where there is none."""


def pack(experiment: Experiment, table: flex.reflection_table | None) -> Packed:
    """Take an experiment without images, and its reflection table or None, apart.

    JSON changes last digits of a crystal, so what is packed once should always be: then any engine, and
    a run that goes on where another stopped, gives the same.
    """
    content = json.dumps(ExperimentList([experiment]).to_dict())
    return content, None if table is None else table.as_msgpack()


def unpack(packed: Packed) -> tuple[Experiment, flex.reflection_table | None]:
    """Return the experiment and the reflection table that `pack` took apart."""
    from dials.array_family import flex

    content, table = packed
    (experiment,) = ExperimentListFactory.from_dict(json.loads(content), check_format=False)
    return experiment, None if table is None else flex.reflection_table.from_msgpack(table)


def model_texts(experiment: Experiment) -> tuple[str, ...]:
    """Return beam, detector, goniometer and scan of an experiment as text."""
    models = (experiment.beam, experiment.detector, experiment.goniometer, experiment.scan)
    return tuple(json.dumps(model.to_dict(), sort_keys=True) for model in models if model is not None)
