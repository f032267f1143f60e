"""Completion in real shells."""

from __future__ import annotations

import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from diffuse_framework.command_line.completion import completion_script
from diffuse_framework.command_line.shared.scopes import SCOPES
from diffuse_framework.host.loader import load_registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture(scope="module")
def bash(registry, tmp_path_factory):
    """A function that completes words in bash, in a folder with one image."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "script.sh").write_text(completion_script("bash", registry))
    (folder / "image_1.cbf").write_text("")

    def complete(*words: str) -> list[str]:
        command = words[0].replace(".", "_")
        script = (
            f'source script.sh; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _{command}; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("diffuse.process", "gri"), {"grid."}),
        (("diffuse.process", "grid.hkl.d"), {"grid.hkl.divisions=", "grid.hkl.d_min=", "grid.hkl.d_max="}),
        (("diffuse.process", "mp.method", "="), {"dask", "mpi", "processes", "serial"}),
        (("diffuse.process", "output.pixels", "=", "T"), {"True"}),
        (("diffuse.process", "preset", "=", "we"), {"weak"}),
        (("diffuse.process", "mp.method=s"), {"mp.method=serial"}),
        (("diffuse.process", "ima"), {"image_1.cbf"}),
        (("diffuse.process", "nothing.like.this"), set()),
        (("diffuse.scale", "scaler.per"), {"scaler.per_image."}),
        (("diffuse.plugins", "mas"), {"masker"}),
    ],
)
def test_bash_offers_what_can_follow(bash, words, offered):
    assert set(bash(*words)) == offered


def test_bash_offers_plugins_by_name(bash, registry):
    assert set(bash("diffuse.process", "merger.plugin", "=")) == {p.name for p in registry.of_stage("merger")}
    assert {"trusted", "bragg"} <= set(bash("diffuse.process", "masker.plugins", "="))


def test_every_parameter_is_offered(registry, bash):
    offered = set(bash("diffuse.process", "masker.trusted."))
    names = {item.path for item in SCOPES["diffuse.process"](registry).all_definitions()}
    wanted = {name.split(".")[2] for name in names if name.startswith("masker.trusted.")}
    assert {word.removeprefix("masker.trusted.").rstrip(".=") for word in offered} == wanted


@pytest.mark.usefixtures("zsh")
def test_zsh_completes_as_one_types(registry, tmp_path):
    (tmp_path / "script.zsh").write_text(completion_script("zsh", registry))
    session = r"""
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "autoload -U compinit; compinit -u -d dump; source script.zsh; echo re''ady"
zpty -r -m z line '*ready*'
zpty -w -n z $'diffuse.process grid.hkl.div\t2,2,2 mp.method=ser\t'
zpty -w z ' ; exit'
while zpty -r z line; do print -rn -- $line; done
"""
    done = subprocess.run(["zsh", "-f", "-c", session], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "mp.method=serial" in done.stdout and "grid.hkl.divisions=2,2,2" in done.stdout


def test_every_command_that_takes_parameters_is_completed():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    commands = {line.split("=")[0].strip() for line in scripts if line.strip().startswith("diffuse.")}
    script = completion_script("bash", load_registry())
    assert {command for command in commands if f"-F _{command.replace('.', '_')} " in script} == commands
