"""The report in a real browser."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.report.checks import Check
from diffuse_framework.report.map.pictures import MapData
from diffuse_framework.report.map.volume import decode, pack
from diffuse_framework.report.page.html import Picture, Story, report_page, short_names, to_script
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.browser import open_page


@pytest.fixture(scope="module")
def data():
    grid = orthorhombic_grid(cell=(12.0, 14.0, 16.0, 90.0, 90.0, 90.0), d_min=2.5)
    index = grid.index_of(np.arange(grid.size))
    q = np.linalg.norm(grid.q_of(np.arange(grid.size)), axis=1)
    voxel = np.flatnonzero((q <= 0.4) & (index.sum(axis=1) % 7 != 0))
    hkl = grid.hkl_of(voxel)
    intensity = 1000 * np.exp(-((q[voxel] / 0.3) ** 2)) * (1.2 + np.cos(2 * np.pi * hkl[:, 0]) * np.cos(hkl[:, 2]))
    rng = np.random.default_rng(3)
    return MapData(
        grid=grid,
        voxel=voxel,
        intensity=intensity,
        sigma=np.sqrt(intensity + 1),
        multiplicity=rng.integers(1, 12, len(voxel)),
        units="relative",
        scales=np.array([0.9, 1.0, 1.1]),
        scales_sigma=np.array([0.01, 0.01, 0.02]),
        image_names=("a.cbf", "b.cbf", "<script>alert(1)</script>.cbf"),
        statistics={"converged": True, "cycles": 4},
    )


def story(data, **changes) -> Story:
    summary = {
        "images": {
            "given": 4,
            "used": 3,
            "rejected": 1,
            "rejected_images": [{"name": "<b>d.cbf", "stage": "indexing", "reason": "no & lattice"}],
        },
        "unit_cell": {
            "median": [12.0, 14, 16, 90, 90, 90],
            "standard_deviation": [0.1] * 6,
            "space_group": "P222",
        },
        "spots": [
            {"image": name, "observed": 50, "rms_px": 0.5, "rms_q": 0.001, "cell": [12.0, 14, 16, 90, 90, 90]}
            for name in data.image_names
        ],
        "map": {"shells": [shell(None, 4.0), shell(4.0, 2.5)]},
        "parts": [{"name": "indexing", "seconds": 1.0, "peak_mib": 100.0}],
        "run": {
            "changed_parameters": "grid.hkl.d_min = 2.5",
            "versions": {"dials": "3.12"},
            "finished": "today",
        },
    }
    checks = [Check("Is it good?", "good", "Yes."), Check("Is it bad?", "bad", "a < b")]
    base = Story("A map", data, summary, checks, [("sums.h5", "sums.h5", "sums", 12345)], version="1", made="now")
    return replace(base, **changes)


def shell(d_max, d_min, **more):
    return {
        "d_max": d_max,
        "d_min": d_min,
        "voxels": 10,
        "completeness": 0.5,
        "multiplicity": 3.0,
        "intensity": 1e3,
        "intensity_over_sigma": 12.0,
        **more,
    }


def test_packing_keeps_values(data):
    packed = pack(data.grid, data.voxel, data.intensity, data.sigma, data.multiplicity)
    offset = data.grid.index_of(data.voxel) - np.array(packed["index_min"])
    numbers = np.ravel_multi_index(offset.T, packed["dimensions"])
    for name, values in (
        ("intensity", data.intensity),
        ("sigma", data.sigma),
        ("multiplicity", data.multiplicity),
    ):
        box = decode(packed["boxes"][name])
        tolerance = 2e-3 if packed["boxes"][name]["bits"] == 16 else 3e-2
        np.testing.assert_allclose(box[numbers], values, rtol=tolerance, atol=1e-3 * values.max())
        assert np.count_nonzero(np.isfinite(box)) == len(data.voxel)
    assert packed["whole"]


def test_a_map_too_large_loses_its_outer_shells(data):
    whole = pack(data.grid, data.voxel, data.intensity, data.sigma, data.multiplicity)
    budget = sum(len(box["data"]) for box in whole["boxes"].values()) // 3
    packed = pack(data.grid, data.voxel, data.intensity, data.sigma, data.multiplicity, budget)
    assert sum(len(box["data"]) for box in packed["boxes"].values()) <= budget
    assert packed["reach"] < whole["reach"] and not packed["whole"]


def test_text_of_the_data_cannot_become_markup(data):
    page = report_page(story(data))
    assert "<script>alert(1)" not in page
    assert "<b>d.cbf" not in page and "&lt;b&gt;d.cbf" in page
    assert "<" not in to_script({"a": "</script><!--"})


def test_the_page_asks_for_nothing(data):
    page = report_page(story(data))
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#|sums\.h5)""", outside)


def test_half_sets_and_absolute_scale_are_shown_where_they_exist(data):
    plain = report_page(story(data))
    assert "Agreement of half data sets" not in plain and "Absolute scale" not in plain
    merging = {"shells": [shell(None, 4.0, cc_half=0.99), shell(4.0, 2.5, cc_half=0.8)]}
    absolute = {
        "method": "krogh_moe",
        "estimates": {"krogh_moe": {"k": 2.0, "q": [0.1, 0.2], "k_of_q": [1.9, 2.0]}},
        "profile": {
            "q": [0.1, 0.2],
            "total_relative": [5.0, None],
            "sum_f0_squared": [9.0, 8.0],
            "incoherent": [1.0, 2.0],
        },
    }
    page = report_page(story(data, merging=merging, absolute=absolute))
    assert "Agreement of half data sets" in page and "Measured and calculated scattering" in page


@pytest.mark.parametrize(
    ("names", "short", "title"),
    [
        (["a_0009.cbf", "a_0010.cbf"], ["0009", "0010"], "image a_#.cbf"),
        (["a1.cbf", "b1.cbf"], ["a1", "b1"], "image #.cbf"),
        (["x_1.cbf"], ["x_1.cbf"], "image"),
        (["one", "two"], ["one", "two"], "image"),
        (["same", "same"], ["same", "same"], "image"),
    ],
)
def test_names_lose_what_they_have_in_common(names, short, title):
    assert short_names(names) == (short, title)


def test_a_run_of_an_older_version_is_shown(data):
    page = report_page(story(data, summary={}, checks=[], files=[], pictures=[Picture("p", "c", b"png")]))
    assert "no summary.json" in page and "Not recorded" in page


@pytest.mark.usefixtures("browser")
def test_the_slices_follow_the_controls(data, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report_page(story(data)))
    image = "document.querySelector('#slice .heatmaplayer image')"
    pixels = f"{image}.getAttribute('xlink:href') || {image}.getAttribute('href')"
    drawn = "document.getElementById('slice').dataset.drawn"
    with open_page(path, tmp_path / "profile") as page:
        assert page.wait_for(drawn) == "2 0 intensity false"
        first = page.wait_for(pixels)

        # The slider by keyboard alone: one key is one voxel.
        page.run("document.getElementById('level').focus()")
        page.press("ArrowRight")
        page.wait_for(f"{drawn} === '2 1 intensity false'")
        assert page.wait_for(f"({pixels}) !== {first!r} && ({pixels})") != first
        assert page.run("document.getElementById('level-value').textContent") == "0.5"

        # What the page shows is what the map holds, symmetry included.
        shown = page.run(
            "(() => { const t = document.getElementById('slice').data[0];"
            " const at = (h, k) => t.customdata[t.y.indexOf(h)][t.x.indexOf(k)];"
            " return [at(1, 1), at(-1, 1), at(1, -1)]; })()"
        )
        index = np.array([2, 2, 1])
        number = np.ravel_multi_index(index - np.array(data.grid.index_min), data.grid.dimensions)
        (row,) = np.flatnonzero(data.voxel == number)
        np.testing.assert_allclose(shown, data.intensity[row], rtol=2e-3)

        for quantity in ("anisotropic", "sigma", "precision", "multiplicity"):
            page.run(
                f"document.getElementById('quantity').value = '{quantity}';"
                "document.getElementById('quantity').dispatchEvent(new Event('change'))"
            )
            page.wait_for(f"{drawn} === '2 1 {quantity} false'")
        page.run(
            "document.getElementById('scale').value = 'log'; "
            "document.getElementById('scale').dispatchEvent(new Event('change'))"
        )
        page.wait_for(f"{drawn} === '2 1 multiplicity true'")
        page.run("document.querySelector('input[name=axis][value=\"0\"]').click()")
        page.wait_for(f"{drawn}.startsWith('0 0 ')")

        # Figures can be saved, and no button sends one to a server.
        buttons = page.run("[...new Set([...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title))]")
        assert {"Zoom", "Pan", "Reset axes"} < set(buttons) and len(buttons) == 4
        assert any("Download plot as" in title for title in buttons)

        # On a telephone nothing is wider than the screen.
        page.set_size(390, 844, mobile=True)
        assert page.wait_for("document.documentElement.scrollWidth <= 390")
        assert page.errors == []
        assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
