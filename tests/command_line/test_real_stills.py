"""The thaumatin grid scan from images to a map, as a user would type it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffuse_framework.command_line import process
from diffuse_framework.io.results import read_map_npz


@pytest.mark.real_data
@pytest.mark.slow
def test_real_stills_become_a_map(thaumatin_images, tmp_path):
    process.run(
        [
            *thaumatin_images(*range(1, 20)),
            "crystal.unit_cell=58,58,150,90,90,90",
            "crystal.space_group=P41212",
            "grid.hkl.d_min=2",
            "indexer.dials_ssx.integrate=False",
            f"output.directory={tmp_path}",
        ]
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["images"]["used"] >= 13
    blank = {f"thau_3_2_{number:04d}.cbf" for number in (16, 17, 18, 19)}
    rejected = {image["name"]: image["reason"] for image in summary["images"]["rejected_images"]}
    assert blank <= set(rejected)
    assert all("spots found" in rejected[name] for name in blank)
    # The cell that was hinted at, as far as the distance in the header is right.
    assert np.allclose(summary["unit_cell"]["median"], (58, 58, 150, 90, 90, 90), rtol=0.02)
    # The crystal thins out along the scan.
    scales = json.loads((tmp_path / "refined_scaling_model_params.json").read_text())["refined_parameters"]
    third, fourteenth = (scales[f"thau_3_2_{n:04d}.cbf"]["multiplicative_scale"] for n in (3, 14))
    assert third > 1.5 * fourteenth
    arrays = read_map_npz(tmp_path / "voxel_data_relative.npz")
    assert (arrays["Sigma_merged_relative"] > 0).all()
    # The solvent ring: scattering peaks between 4 and 2.8 angstrom.
    q, intensity = arrays["q_magnitude_center"], arrays["I_merged_relative"]
    edges = np.linspace(0.05, 0.5, 19)
    profile = [np.median(intensity[(q >= low) & (q < high)]) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    inner = 1 / edges[np.argmax(profile[3:]) + 3]
    assert 2.6 < inner < 4.5
