"""Check a merged map, its grid and its scales: pictures, and questions about them with answers.

Example::

  diffuse.check_phase3_outputs --grid-definition-file diffuse/global_voxel_grid_definition.json \\
    --scaling-model-params-file diffuse/refined_scaling_model_params.json \\
    --voxel-data-file diffuse/voxel_data_relative.npz --output-dir diagnostics
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffuse_framework.command_line.shared.diagnostics import load_map, look_at_map
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import start_logs
from diffuse_framework.errors import ConfigError, DataError


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        "diffuse.check_phase3_outputs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--grid-definition-file", type=Path, required=True, help="global_voxel_grid_definition.json")
    add("--scaling-model-params-file", type=Path, required=True, help="refined_scaling_model_params.json")
    add("--voxel-data-file", type=Path, required=True, help="voxel_data_relative.npz, or HDF5 with its arrays")
    add("--output-dir", type=Path, required=True, help="folder for pictures and texts")
    add("--experiments-list-file", type=Path, help="text file with the path of an .expt file on each line")
    add(
        "--corrected-pixel-data-dir",
        type=Path,
        help="folder of corrected pixels (NPZ), or text file with the path of such a folder on each line",
    )
    add(
        "--max-plot-points",
        type=int,
        default=50000,
        help="points of a scatter plot at most (default: %(default)s)",
    )
    add("--verbose", action="store_true", help="say more")
    return parser


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.check_phase3_outputs."""
    options = make_parser().parse_args(args)
    if options.max_plot_points < 1:
        raise ConfigError(f"--max-plot-points {options.max_plot_points} must be at least 1")
    start_logs(options.verbose, None)
    files = {
        "grid": options.grid_definition_file,
        "scales": options.scaling_model_params_file,
        "voxels": options.voxel_data_file,
        "experiments": options.experiments_list_file,
        "pixels": options.corrected_pixel_data_dir,
    }
    data = load_map(
        files["grid"],
        files["scales"],
        files["voxels"],
        _pixel_files(files["pixels"]) if files["pixels"] else [],
        _listed(files["experiments"]) if files["experiments"] else [],
    )
    inputs = {name: str(path) for name, path in files.items() if path}
    look_at_map(data, options.output_dir, inputs, options.max_plot_points)
    print(f"Pictures are in {options.output_dir}")


def _listed(path: Path) -> list[Path]:
    """Return the paths that a text file lists, one a line, taken from where the file is."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read the list {path}: {error}") from error
    found = [Path(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    found = [p if p.exists() or p.is_absolute() else path.parent / p for p in found]
    missing = [p for p in found if not p.exists()]
    if missing:
        raise DataError(f"{path} lists {missing[0]}, which is not there")
    return found


def _pixel_files(path: Path) -> list[Path]:
    folders = [path] if path.is_dir() else _listed(path)
    files = [
        file
        for folder in folders
        for file in ([folder] if folder.is_file() else sorted(folder.rglob("*diffuse_data.npz")))
    ]
    if not files:
        raise DataError(f"{path} has no files *diffuse_data.npz of corrected pixels")
    return files


if __name__ == "__main__":
    run()
