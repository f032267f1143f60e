"""Which reflections an image excites, and where they fall on the detector."""

from __future__ import annotations

from diffuse_framework.algorithms.geometry import project, project_near, reflections_near_ewald
from diffuse_framework.algorithms.masking.shapes import centring_conditions, predicted_spots

__all__ = ["centring_conditions", "predicted_spots", "project", "project_near", "reflections_near_ewald"]
