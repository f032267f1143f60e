"""Take one still from the image file to its diffuse pixels, and look at them.

Examples::

  diffuse.run_phase2_e2e_visual_check --cbf-image image_001.cbf --output-base-dir e2e_outputs
  diffuse.run_phase2_e2e_visual_check --cbf-image image_001.cbf --output-base-dir e2e_outputs \\
    --pdb-path model.pdb --static-mask-config '{"beamstop": {"type": "circle", "center_x": 1250, \\
    "center_y": 1250, "radius": 50}}' --extraction-config-json '{"pixel_step": 2}' --verbose

The parameters it comes to are left in e2e_parameters.phil, for diffuse.process.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

from diffuse_framework.command_line import process
from diffuse_framework.command_line.shared.diagnostics import load_extraction, look_at_extraction
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.visual_checks import options as json_options
from diffuse_framework.command_line.visual_checks.phase_files import models_of_image, place_image_files
from diffuse_framework.errors import ConfigError
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import make_folder, writing
from diffuse_framework.io.results import file_stem

logger = logging.getLogger("diffuse_framework.look")

LOG = "e2e_visual_check.log"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        "diffuse.run_phase2_e2e_visual_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cbf-image", type=Path, required=True, help="the image file")
    json_options.add_shared_options(parser)
    parser.add_argument("--pixel-step", type=int, help="use every n-th pixel along fast and slow")
    parser.add_argument(
        "--save-pixel-coords",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep in diffuse_data.npz where pixels are on the detector (default: %(default)s)",
    )
    return parser


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.run_phase2_e2e_visual_check."""
    options = make_parser().parse_args(args)
    if not options.cbf_image.is_file():
        raise ConfigError(f"there is no file {options.cbf_image}")
    masker, bragg = json_options.bragg_mask_phil(options.bragg_mask_config, options.use_bragg_mask_option_b)
    extraction, asked = json_options.extraction_phil(options.extraction_config_json, options.pixel_step, masker)
    static = json_options.static_mask_phil(options.static_mask_config)
    crystal = json_options.crystal_phil(options.pdb_path)
    folder = make_folder(options.output_base_dir / file_stem(options.cbf_image.name))
    parameters = folder / "e2e_parameters.phil"
    dials = json_options.dials_phil(options.dials_phil_path, folder)
    with writing(parameters) as temporary:
        temporary.write_text(
            "\n".join(
                [
                    crystal,
                    dials,
                    static,
                    bragg,
                    extraction,
                    "output.masks = all",
                    "output.pixels = True",
                    f"output.log = {LOG}",
                    f'output.directory = "{folder}"',
                    "",
                ]
            )
        )
    finished = process.execute([str(options.cbf_image), str(parameters), *(["-v"] if options.verbose else [])])
    assert finished is not None
    models_of_image(finished, folder)
    image = finished.outcome.experiment.images[0]
    coordinates = options.save_pixel_coords and asked["save_original_pixel_coordinates"]
    place_image_files(finished, image, folder, coordinates)
    shutil.rmtree(folder / filenames.IMAGES, ignore_errors=True)
    if not asked["plot_diagnostics"]:
        logger.info("No pictures, as plot_diagnostics is false")
        return
    files = {
        "raw_image": options.cbf_image,
        "expt": folder / "indexed_refined_detector.expt",
        "total_mask": folder / "total_diffuse_mask.pickle",
        "npz_file": folder / "diffuse_data.npz",
        "bragg_mask": folder / "bragg_mask.pickle",
        "pixel_mask": folder / "global_pixel_mask.pickle",
    }
    summary = look_at_extraction(
        load_extraction(**files),
        folder / "extraction_diagnostics",
        {name: str(path) for name, path in files.items()},
    )
    logger.info("The answers are in %s, pictures beside it", summary)


if __name__ == "__main__":
    run()
