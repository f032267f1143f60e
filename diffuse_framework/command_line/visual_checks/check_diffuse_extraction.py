"""Check the diffuse pixels of one image: pictures, and questions about them with answers.

Examples::

  diffuse.check_diffuse_extraction --raw-image image.cbf --expt indexed.expt \\
    --total-mask total_diffuse_mask.pickle --npz-file diffuse_data.npz

The masks and the NPZ file are those of diffuse.process with output.masks=all output.pixels=True.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffuse_framework.command_line.shared.diagnostics import load_extraction, look_at_extraction
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import start_logs


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        "diffuse.check_diffuse_extraction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--raw-image", type=Path, required=True, help="the image file")
    add(
        "--expt",
        type=Path,
        required=True,
        help="its .expt file; of several experiments the image's own is taken",
    )
    add("--total-mask", type=Path, required=True, help="mask file of DIALS, True where a pixel is diffuse")
    add("--npz-file", type=Path, required=True, help="corrected pixels: q_vectors, intensities, sigmas")
    add("--bragg-mask", type=Path, help="mask file of the Bragg peaks, for the overlay")
    add("--pixel-mask", type=Path, help="mask file of the pixels that can be used at all")
    add("--bg-map", type=Path, help="background in photons per pixel: .npy, or counts in .npz or .h5")
    add("--output-dir", type=Path, default=Path("extraction_visual_check"), help="default: %(default)s")
    add("--verbose", action="store_true", help="say more")
    return parser


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.check_diffuse_extraction."""
    options = make_parser().parse_args(args)
    start_logs(options.verbose, None)
    files = {
        name: getattr(options, name)
        for name in ("raw_image", "expt", "total_mask", "npz_file", "bragg_mask", "pixel_mask", "bg_map")
    }
    data = load_extraction(**files)
    look_at_extraction(data, options.output_dir, {name: str(path) for name, path in files.items() if path})
    print(f"Pictures are in {options.output_dir}")


if __name__ == "__main__":
    run()
