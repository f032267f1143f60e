"""Log, report and summary of one run say the same of its map."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest

from diffuse_framework.command_line.report import write_report
from diffuse_framework.command_line.shared.diagnostics import run_map
from diffuse_framework.io import filenames
from diffuse_framework.io.inputs import read_json
from diffuse_framework.io.results import read_map_npz
from diffuse_framework.pipeline.run import RunSettings, make_map, statistics
from diffuse_framework.report.map.pictures import map_quality_text
from diffuse_framework.report.warned import warnings_kept
from diffuse_framework.simulate.detector import header_beam, pilatus
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from support.runs import known_steps, run_known

GRID = """
grid.hkl.divisions = 2 2 2
grid.hkl.d_min = 2.5
corrector.plugins = solid_angle polarization efficiency
"""


def simulation(counts_per_pixel: float = 1.0):
    return simulate(
        SimulationSettings(
            n_images=6,
            counts_per_pixel=counts_per_pixel,
            cell=(22.0, 25.0, 29.0, 90.0, 90.0, 90.0),
            detector=pilatus((1, 1), 45.0, header_beam(1.0)),
            seed=5,
        )
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in a folder: its folder, outcome, log and report."""
    folder = tmp_path_factory.mktemp("run")
    simulated, lines = simulation(), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("diffuse_framework")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        outcome = run_known(simulated.source, simulated.experiment, GRID, settings=RunSettings(folder, called="here"))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    write_report(folder, folder / filenames.REPORT, with_image=False)
    return folder, outcome, "\n".join(lines), (folder / filenames.REPORT).read_text()


def percentages(text: str) -> list[str]:
    return re.findall(r"\b\d+\.\d%", text)


def test_completeness_is_the_same_everywhere(finished):
    folder, outcome, log, page = finished
    summary = read_json(folder / filenames.SUMMARY)["map"]
    grid = outcome.map.merged.grid
    shells = summary["shells"]
    assert sum(shell["voxels"] for shell in shells) == summary["voxels_observed"]
    assert all(0 < shell["completeness"] <= 1 for shell in shells)
    expected = [f"{shell['completeness']:.1%}" for shell in shells]
    table = log[log.index("d_max") : log.index("part ")]
    assert percentages(table) == expected
    of_shells = page[page.index('id="shells"') : page.index('id="how"')]
    assert percentages(of_shells) == expected
    stats = statistics(
        outcome.sums, outcome.scales, known_steps(outcome.experiment, GRID).merger, len(shells), 0.01, seed=0
    )[0]
    assert [f"{shell['completeness']:.1%}" for shell in stats["shells"]] == expected
    assert percentages(map_quality_text(run_map(folder))) == expected
    overall = len(outcome.map.merged) / grid.n_voxels
    assert summary["completeness"] == summary["overall"]["completeness"] == stats["overall"]["completeness"] == overall
    assert f"{100 * overall:.1f} % of the asymmetric unit" in page


def test_log_summary_and_report_give_the_same_verdict_and_the_log_ends_with_it(finished):
    folder, _, log, page = finished
    verdict = read_json(folder / filenames.SUMMARY)["verdict"]
    assert verdict["sentence"] in page
    assert log.splitlines()[-1] == f"Verdict: {verdict['sentence']}"
    assert "Results are in here" in log
    assert verdict["points"]
    for point in verdict["points"]:
        assert point["what"] in log and point["do"] in log
        assert point["what"].replace("'", "&#39;") in page


def test_a_report_of_a_run_without_a_verdict_works_it_out(finished, tmp_path):
    folder, _, _, _ = finished
    path = folder / filenames.SUMMARY
    whole = path.read_text()
    content = json.loads(whole)
    sentence = content.pop("verdict")["sentence"]
    try:
        path.write_text(json.dumps(content))
        write_report(folder, tmp_path / "page.html", with_image=False)
    finally:
        path.write_text(whole)
    assert sentence in (tmp_path / "page.html").read_text()


def test_a_map_that_is_merged_again_is_judged_again(finished, tmp_path, caplog):
    _, outcome, _, _ = finished
    steps = known_steps(outcome.experiment, GRID + "merger.plugin = inverse_variance\n").merging
    with caplog.at_level(logging.INFO):
        make_map(outcome.sums, outcome.scales, outcome.scaled_by, steps, tmp_path)
    summary = read_json(tmp_path / filenames.SUMMARY)
    assert caplog.messages[-1] == f"Verdict: {summary['verdict']['sentence']}"
    voxels = len(read_map_npz(tmp_path / filenames.RELATIVE_MAP)["voxel_indices"])
    assert summary["map"]["voxels_observed"] == voxels


def test_a_map_without_signal_ends_with_a_warning(tmp_path, caplog):
    dim = simulation(0.003)
    with caplog.at_level(logging.INFO):
        run_known(dim.source, dim.experiment, GRID, settings=RunSettings(tmp_path))
    last = caplog.records[-1]
    assert last.levelno == logging.WARNING and "NO anisotropic signal" in last.getMessage()


def test_a_single_image_has_no_verdict_on_signal_and_says_so(tmp_path, caplog):
    one = simulate(SimulationSettings(n_images=1, detector=pilatus((1, 1), 45.0, header_beam(1.0))))
    with caplog.at_level(logging.INFO):
        run_known(one.source, one.experiment, GRID, settings=RunSettings(tmp_path))
    assert "can't be told" in caplog.records[-1].getMessage() and caplog.records[-1].levelno == logging.WARNING
    assert np.isfinite(read_json(tmp_path / filenames.SUMMARY)["verdict"]["evidence"]["completeness"])


def test_what_the_run_warned_of_is_part_of_the_verdict(tmp_path):
    logger = logging.getLogger("diffuse_framework.adapters.images.open")
    with warnings_kept() as warned:
        logger.warning("the exposure time is guessed\nand more of it")
        logger.warning("the exposure time is guessed\nand more of it")
        logger.info("all is well")
        logging.getLogger("diffuse_plugins.scaler_smooth").warning("it did not converge")
        bright = simulation()
        run_known(bright.source, bright.experiment, GRID, settings=RunSettings(tmp_path, warned=warned))
    logger.warning("too late")
    summary = read_json(tmp_path / filenames.SUMMARY)
    assert summary["warnings"][:2] == ["the exposure time is guessed", "it did not converge"]
    assert "too late" not in warned
    (point,) = [point for point in summary["verdict"]["points"] if "warned" in point["what"]]
    assert f"warned of {len(summary['warnings'])} things, first: the exposure time is guessed" in point["what"]
    assert "to look at" in summary["verdict"]["sentence"]
