"""The names of the files of a run, and what each holds."""

from __future__ import annotations

from diffuse_framework.model.conventions import INDEXED, REFLECTIONS

LOG = "diffuse.process.log"
PARAMETERS = "parameters.phil"
SUMMARY = "summary.json"
REPORT = "report.html"
INDEXING_PARTS = "indexing.parts"
SUMS = "sums.h5"
GRID = "global_voxel_grid_definition.json"
SCALES = "refined_scaling_model_params.json"
SCALED = "scaled.expt"
RELATIVE_MAP = "voxel_data_relative.npz"
RELATIVE_BOX = "voxel_data_relative.nxs"
HALF_MAPS = ("voxel_data_half_1.npz", "voxel_data_half_2.npz")
ABSOLUTE_MAP = "voxel_data_absolute.npz"
ABSOLUTE_BOX = "voxel_data_absolute.nxs"
FINAL_MODEL = "scaling_model_final.json"
ABSOLUTE_SCALE = "absolute_scale.json"
ABSOLUTE_FIGURE = "absolute_scale.png"
STATISTICS = "merging_statistics.json"
IMAGES = "images"

MEANINGS = {
    RELATIVE_MAP: "the map on a relative scale, as a table of voxels",
    RELATIVE_BOX: "the same as a NeXus box",
    ABSOLUTE_MAP: "the map on an absolute scale, as a table of voxels",
    ABSOLUTE_BOX: "the same as a NeXus box",
    ABSOLUTE_SCALE: "how the absolute scale was found",
    ABSOLUTE_FIGURE: "the same as a picture",
    FINAL_MODEL: "all that was scaled by, for other programs",
    STATISTICS: "agreement of half data sets",
    HALF_MAPS[0]: "the map of one half of the images",
    HALF_MAPS[1]: "the map of the other half",
    GRID: "the voxel grid",
    SCALES: "the scaling model",
    SCALED: "experiments with their scaling models, for DIALS",
    SUMS: "sums per voxel and image: diffuse.scale and diffuse.merge start from them",
    INDEXED: "orientations and geometry, for DIALS",
    REFLECTIONS: "Bragg reflections, for DIALS",
    SUMMARY: "numbers of this run",
    PARAMETERS: "the parameters that differ from the defaults: diffuse.process takes them again",
}
"""What each file of a results folder is, in the order in which one looks at them."""
