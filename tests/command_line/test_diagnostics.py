"""diffuse.report, diffuse.show, diffuse.view, and how far work has come."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("dials")

from diffuse_framework.command_line import report, show, view
from diffuse_framework.command_line.shared.logs import PROGRESS
from diffuse_framework.command_line.shared.progress import ShowProgress, duration, progress_line
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.notebook import open_map


def test_report_of_a_run(results, tmp_path, capsys):
    report.run([str(results), "--output", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "and its mask" in page and "data:image/png;base64," in page
    assert "output.masks" in page or "masks = " in page
    assert "Indexed spots of each image" in page
    # Worked out here, as diffuse.stats did not run.
    assert "Agreement of half data sets" in page and not (results / "merging_statistics.json").exists()
    assert "sums.h5" in page and "3.5 " not in capsys.readouterr().err
    assert (tmp_path / "page.html").stat().st_size < 15e6


def test_report_without_a_run_says_what_is_missing(tmp_path, capsys):
    for folder, said in (
        (tmp_path / "nothing", "there is no folder"),
        (tmp_path, "global_voxel_grid_definition.json"),
    ):
        with pytest.raises(SystemExit):
            report.run([str(folder)])
        assert said in capsys.readouterr().err


def test_show_says_what_files_hold(results, capsys):
    show.run([str(results), *map(str, (results / "images").glob("sim_00001_*"))])
    said = capsys.readouterr().out
    for words in (
        "Voxel grid",
        "Scales of 4 images",
        "A run on 4 images",
        "Sums over pixels",
        "A merged map on a relative scale",
        "NeXus: diffuse scattering, P212121",
        "A mask of 1 panel of 487 x 619 pixels",
        "Corrected diffuse pixels of sim_00001",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", b"x"),
        ("a.h5", b"x"),
        ("a.json", b"{"),
        ("a.pickle", b"x"),
        ("a.txt", b"x"),
        ("a.json", b"[1]"),
    ],
)
def test_show_refuses_files_of_no_run(name, content, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as failure:
        show.run([str(tmp_path / name)])
    assert failure.value.code == 1
    assert name in capsys.readouterr().err


def test_view_saves_planes(results, tmp_path, capsys):
    view.run([str(results), "-h", "0", "-l", "0.33", "--show", "isigi", "--save", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["isigi_h_0.png", "isigi_l_0.33.png"]


def test_view_opens_a_window_that_keys_move(results, monkeypatch):
    from matplotlib import pyplot
    from matplotlib.backend_bases import KeyEvent

    moved = {}

    def use_it():
        figure = pyplot.gcf()
        (image,) = figure.axes[0].images
        before = image.get_array().copy()
        figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, "right"))
        moved["picture"] = not np.array_equal(before, image.get_array(), equal_nan=True)

    monkeypatch.setattr(pyplot, "get_backend", lambda: "a window")
    monkeypatch.setattr(pyplot, "show", use_it)
    view.run([str(results), "-l", "0"])
    assert moved["picture"]


def test_view_without_a_display_says_so(results, monkeypatch, capsys):
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "get_backend", lambda: "agg")
    with pytest.raises(SystemExit):
        view.run([str(results)])
    assert "--save" in capsys.readouterr().err


def test_a_map_shows_itself_in_a_notebook(results):
    found = open_map(results)
    assert len(found) == len(found.intensity) == len(found.hkl) == len(found.sigma)
    assert "P212121" in repr(found)
    html = found._repr_html_()
    assert html.startswith("<div>") and "data:image/png;base64," in html
    with pytest.raises(ValueError, match="one of h, k and l"):
        found.slice(h=0, k=0)
    with pytest.raises(ValueError, match="there is no kind 'foo'; there are intensity, sigma"):
        found.slice(l=0, kind="foo")
    with pytest.raises(ValueError, match=r"the map ends at l = \d+\.\d, before 99"):
        found.slice(l=99)


def test_progress_leaves_results_alone_and_says_how_long(caplog, monkeypatch):
    clock = iter(np.arange(0, 1000, 15.0))
    monkeypatch.setattr("diffuse_framework.command_line.shared.progress.time.monotonic", lambda: float(next(clock)))
    logger = logging.getLogger(PROGRESS)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    mapper = ShowProgress(SerialEngine(), lambda: "accumulation")
    assert list(mapper.map(str, range(6))) == ["0", "1", "2", "3", "4", "5"]
    assert any("accumulation: 1 of 6 (17%), about 75 s left" in record.getMessage() for record in caplog.records)
    assert list(ShowProgress(SerialEngine(), lambda: "").map(str, iter([1, 2]))) == ["1", "2"]


def test_times_are_in_units_of_people():
    assert [duration(s) for s in (3, 600, 7200)] == ["3 s", "10 min", "2.0 h"]
    assert progress_line("x", 2, None, 4) == "  x: 2 done in 4 s"


INTERRUPTED = """
import os, signal, sys, threading, time
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.engine.processes import process_engine

def work(n):
    time.sleep(0.2)
    return n

@report_failures()
def run():
    threading.Timer(1.5, lambda: os.killpg(os.getpgrp(), signal.SIGINT)).start()
    list(process_engine(2).map(work, range(10000)))

if __name__ == "__main__":
    run()
"""


def test_ctrl_c_stops_at_once_and_in_one_line(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, start_new_session=True
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "Stopped; finished files are kept"
