"""Space groups: their operators, their systematic absences, and how often they repeat a molecule."""

from __future__ import annotations

from diffuse_framework.adapters.models.symmetry import is_absent, operations_of, symmetry_of

__all__ = ["is_absent", "operations_of", "symmetry_of"]
