"""Images, and the experiments and reflections that come with them."""

from __future__ import annotations

from diffuse_framework.adapters.guards.pickles import admit_masks

# Masks that an .expt file names.
admit_masks("dxtbx.model.experiment_list")
