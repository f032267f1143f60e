"""Where DIALS finds our scaling model.

DIALS loads all entry points of ``dxtbx.scaling_model_ext`` while its own module of models is still being
imported, so that a module that needs that one can't be the target. This one needs nothing of it until used.
"""

from __future__ import annotations

from typing import Any

from libtbx.phil import parse


class DiffuseScalingModelEntry:
    """Makes `DiffuseScalingModel` when DIALS asks for one."""

    id_ = "diffuse"
    phil_scope = parse("")

    @classmethod
    def from_dict(cls, obj: dict[str, Any]) -> Any:
        """Return the model of a dictionary that `to_dict` made."""
        return _model_class().from_dict(obj)

    @classmethod
    def from_data(cls, params: Any, experiment: Any, reflection_table: Any) -> Any:
        """Return a model that changes nothing."""
        return _model_class().from_data(params, experiment, reflection_table)


def _model_class() -> Any:
    from diffuse_framework.adapters.scaling.model import DiffuseScalingModel

    return DiffuseScalingModel
