from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from diffuse_framework.command_line.new_plugin import package_texts, run, write_package
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.registry import Registry
from diffuse_framework.testing.conformance import conformance_tests

ROOT = Path(__file__).parents[2]


def template(stage: str) -> type:
    """The plugin that new plugins of a stage start from."""
    module = importlib.import_module(f"diffuse_framework.templates.{stage}")
    (factory,) = getattr(module, f"diffuse_{stage}s")()
    return factory


@pytest.mark.parametrize("stage", STAGES)
def test_every_template_keeps_its_contract(stage):
    conformance_tests(stage, template(stage), max_examples=8)()


@pytest.mark.parametrize("stage", STAGES)
def test_a_package_has_the_new_name_throughout(stage, tmp_path):
    folder = write_package(stage, "acme_smooth", tmp_path)
    assert folder == tmp_path / "diffuse_acme_smooth"
    for path in folder.rglob("*.*"):
        text = path.read_text()
        assert "emplate" not in text and "STAGE" not in text and "CLASS" not in text
        if path.suffix == ".py":
            compile(text, str(path), "exec")
    assert f'{stage}_acme_smooth = "diffuse_acme_smooth.{stage}"' in (folder / "pyproject.toml").read_text()
    assert "class AcmeSmooth" in (folder / "diffuse_acme_smooth" / f"{stage}.py").read_text()


def test_the_tests_of_a_new_package_pass(tmp_path):
    run(["scaler", "my_name", "--directory", str(tmp_path)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=tmp_path / "diffuse_my_name", capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


def test_nothing_is_overwritten(tmp_path, capsys):
    run(["masker", "mine", "--directory", str(tmp_path)])
    (tmp_path / "diffuse_mine" / "README.md").write_text("my own words")
    with pytest.raises(SystemExit):
        run(["masker", "mine", "--directory", str(tmp_path)])
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "diffuse_mine" / "README.md").read_text() == "my own words"


@pytest.mark.parametrize(
    ("name", "message"), [("per_image", "there is a scaler 'per_image' already"), ("Mine", "can't name a scaler")]
)
def test_a_name_that_cannot_be_is_refused(tmp_path, capsys, name, message):
    with pytest.raises(SystemExit):
        run(["scaler", name, "--directory", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        run(["scaler", "mine", "--directory", str(tmp_path / "file")], Registry())
    assert "can't write to" in capsys.readouterr().err


def test_the_template_in_the_documentation_is_what_the_command_writes():
    folder = ROOT / "docs" / "plugin_template"
    kept = {"pyproject.toml", "README.md", "LICENSE"}
    found = {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.suffix == ".py" or path.name in kept
    }
    assert found == package_texts("masker", "template"), "write it anew: see docs/contributing.md"
