"""Take stills from image files to a merged map, and look at it.

Examples::

  diffuse.run_phase3_e2e_visual_check --cbf-image-paths image_*.cbf --output-base-dir e2e_outputs
  diffuse.run_phase3_e2e_visual_check --cbf-image-paths image_*.cbf --output-base-dir e2e_outputs \\
    --pdb-path model.pdb --grid-config-json '{"ndiv_h": 3, "ndiv_k": 3, "ndiv_l": 3}' \\
    --extraction-config-json '{"pixel_step": 2}' --save-intermediate-phase-outputs --verbose

The parameters it comes to are left in e2e_parameters.phil, for diffuse.process.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

from diffuse_framework.adapters.images.models import ImageModels
from diffuse_framework.command_line import process
from diffuse_framework.command_line.shared.diagnostics import load_map, look_at_map
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.visual_checks import options as json_options
from diffuse_framework.command_line.visual_checks.phase_files import place_image_files, places_in_file
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import make_folder, write_json, writing
from diffuse_framework.io.results import file_stem

logger = logging.getLogger("diffuse_framework.look")

LOG = "e2e_phase3_visual_check.log"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        "diffuse.run_phase3_e2e_visual_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cbf-image-paths", type=Path, nargs="+", required=True, help="the image files")
    json_options.add_shared_options(parser)
    add(
        "--relative-scaling-config-json",
        help="JSON: enable_res_smoother, max_iterations, convergence_tolerance",
    )
    add("--grid-config-json", help="JSON: ndiv_h, ndiv_k, ndiv_l, d_min_target, d_max_target")
    add(
        "--save-intermediate-phase-outputs",
        action="store_true",
        help="also keep the corrected pixels of each image, and write a list of all files",
    )
    return parser


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.run_phase3_e2e_visual_check."""
    options = make_parser().parse_args(args)
    missing = [path for path in options.cbf_image_paths if not path.is_file()]
    if missing:
        raise ConfigError(f"there is no file {missing[0]}")
    registry = load_registry()
    masker, bragg = json_options.bragg_mask_phil(options.bragg_mask_config, options.use_bragg_mask_option_b)
    extraction, asked = json_options.extraction_phil(options.extraction_config_json, None, masker)
    texts = [
        json_options.crystal_phil(options.pdb_path),
        json_options.static_mask_phil(options.static_mask_config),
        bragg,
        extraction,
        json_options.scaling_phil(options.relative_scaling_config_json, registry),
        json_options.grid_phil(options.grid_config_json),
    ]
    base = make_folder(options.output_base_dir)
    folder = make_folder(base / "phase3_outputs")
    parameters = base / "e2e_parameters.phil"
    texts.append(json_options.dials_phil(options.dials_phil_path, base))
    # Corrected pixels of every image are large; the map does not need them.
    texts += [
        "output.masks = all",
        f"output.pixels = {options.save_intermediate_phase_outputs}",
        f'output.directory = "{folder}"',
        f"output.log = {LOG}",
        "",
    ]
    with writing(parameters) as temporary:
        temporary.write_text("\n".join(texts))
    images = [str(path) for path in options.cbf_image_paths]
    try:
        finished = process.execute([*images, str(parameters), *(["-v"] if options.verbose else [])], registry)
    finally:
        # It is the log of the whole tool, so it lies beside the folders of the phases.
        if (folder / LOG).is_file():
            (folder / LOG).replace(base / LOG)
    assert finished is not None
    pixel_files, experiments = _phase1(finished, base, options.save_intermediate_phase_outputs)
    shutil.rmtree(folder / filenames.IMAGES, ignore_errors=True)
    files = {
        "grid": folder / filenames.GRID,
        "scales": folder / filenames.SCALES,
        "voxels": folder / filenames.RELATIVE_MAP,
    }
    if asked["plot_diagnostics"]:
        data = load_map(
            files["grid"], files["scales"], files["voxels"], pixel_files, experiments if pixel_files else []
        )
        inputs = {name: str(path) for name, path in files.items()}
        summary = look_at_map(data, folder / "diagnostics", inputs, 50000)
        logger.info("The answers are in %s, pictures beside it", summary)
    if options.save_intermediate_phase_outputs:
        _write_manifest(base, finished)
    logger.info("diffuse.report %s shows all in one page", folder)


def _phase1(finished: process.Finished, base: Path, keep_pixels: bool) -> tuple[list[Path], list[Path]]:
    """Write a folder of models and masks for each image; return files of pixels and of experiments."""
    pixel_files, experiments = [], []
    models = ImageModels(finished.folder / filenames.INDEXED, finished.folder / filenames.REFLECTIONS)
    for image, number, frame in places_in_file(finished):
        folder = make_folder(base / f"phase1_{file_stem(image.name)}")
        models.save(number, frame, folder)
        pixels = place_image_files(finished, image, folder, pixels=keep_pixels)
        if pixels is not None:
            pixel_files.append(pixels)
        experiments.append(folder / "indexed_refined_detector.expt")
    return pixel_files, experiments


def _write_manifest(base: Path, finished: process.Finished) -> None:
    """Write ``intermediate_outputs_manifest.json``: all files by folder, and the images with their fate."""
    experiment = finished.outcome.experiment
    folders: dict[str, list[str]] = {}
    for path in sorted(base.rglob("*")):
        if path.is_file():
            folders.setdefault(str(path.parent.relative_to(base)), []).append(path.name)
    write_json(
        base / "intermediate_outputs_manifest.json",
        {
            "images_used": [image.name for image in experiment.images],
            "images_rejected": [vars(item) for item in experiment.rejected],
            "files": folders,
        },
    )


if __name__ == "__main__":
    run()
