"""Packages of third parties, installed by pip into a fresh place and found there at run time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffuse_framework.errors import PluginError
from diffuse_framework.host.loader import load_registry

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "diffuse_ice_rings": (ROOT / "examples", "masker", "ice_rings"),
    "diffuse_robust_scaler": (ROOT / "examples", "scaler", "robust_median"),
    "diffuse_shell_scaler": (ROOT / "examples", "scaler", "shells"),
    "diffuse_high_angle": (ROOT / "examples", "absolute_scaler", "high_angle"),
    "plugin_template": (ROOT / "docs", "masker", "template"),
}


@pytest.fixture(scope="module", params=PACKAGES)
def installed(request, tmp_path_factory):
    """A package's source, the fresh place it is installed to, its stage and its plugin."""
    parent, stage, name = PACKAGES[request.param]
    folder = tmp_path_factory.mktemp("third_party")
    # pip builds beside the source; ours stays clean.
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".hypothesis")
    source = Path(shutil.copytree(parent / request.param, folder / "source", ignore=ignored))
    target = folder / "target"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(target), str(source)], check=True)
    return source, target, stage, name


def python(target: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run Python with the fresh place on its path, in a folder from which nothing else is found."""
    environment = os.environ | {"PYTHONPATH": str(target)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_it_is_found_at_run_time_with_its_parameters(installed, tmp_path):
    _, target, stage, name = installed
    script = f"""
from diffuse_framework.command_line.plugins import run
from diffuse_framework.host.loader import load_registry
plugin = load_registry().find({stage!r}, {name!r})
print(plugin.package, plugin.factory.__module__, __import__(plugin.factory.__module__).__file__)
run([{stage!r}, {name!r}])
"""
    result = python(target, "-c", script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, _, rest = result.stdout.partition("\n")
    package, module, path = first.split()
    assert package.replace("-", "_") == module.split(".")[0] and Path(path).is_relative_to(target)
    assert f"{stage} {name}" in rest and ".help" in rest


def test_its_own_tests_pass(installed):
    source, target, _, _ = installed
    shutil.rmtree(next(path for path in source.glob("diffuse_*") if path.is_dir() and not path.suffix))
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath="]
    result = python(target, "-m", "pytest", *options, cwd=source)
    assert result.returncode == 0, result.stdout


def test_it_has_a_licence_and_says_what_it_is(installed):
    source, _, _, _ = installed
    assert "Copyright" in (source / "LICENSE").read_text()
    assert (source / "README.md").read_text().startswith("# diffuse_")


def test_nothing_of_it_is_here_where_it_is_not_installed(installed):
    _, _, stage, name = installed
    with pytest.raises(PluginError, match="there is no"):
        load_registry().find(stage, name)
