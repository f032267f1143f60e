"""install.sh installs no package of the system before someone said yes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "install.sh"


@pytest.mark.parametrize(
    ("answer", "yes", "goes_on"), [("n", "", False), ("", "", False), ("y", "", True), ("n", 1, True)]
)
def test_apt_is_asked_for_on_a_terminal(answer, yes, goes_on):
    functions = re.search(r"^say\(\).*?^(?=apt_install)", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)[0]
    main, terminal = pty.openpty()
    os.write(main, f"{answer}\n".encode())
    done = subprocess.run(["sh", "-c", f"yes={yes}\n{functions}\nmay_apt zsh"], stdin=terminal, capture_output=True)
    os.close(main)
    os.close(terminal)
    assert (done.returncode == 0) == goes_on
    assert (b"apt-get install zsh, as root?" in done.stdout) == (not yes)


def test_an_option_that_there_is_not():
    done = subprocess.run(["sh", str(SCRIPT), "--everything"], capture_output=True, text=True)
    assert done.returncode == 1 and "there is no option --everything" in done.stderr


LOCKS = sorted(SCRIPT.with_name("locks").glob("*.txt"))
# What Debian's packages of DIALS bring: pip leaves them alone.
OF_THE_SYSTEM = {"jinja2", "matplotlib", "mrcfile", "numpy", "scipy", "threadpoolctl", "tqdm"}


def locked(path: Path) -> dict[str, str]:
    """Return the versions of a lock by name; each must have a hash."""
    entries = path.read_text().replace("\\\n", " ").splitlines()
    found = [re.fullmatch(r"([\w.-]+)==(\S+)\s+--hash=sha256:[0-9a-f]{64}", line) for line in entries if line[0] != "#"]
    assert all(found), f"{path}: a line is no name, version and hash"
    return {match[1].lower().replace("_", "-"): match[2] for match in found}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_each_file_with_its_hash_and_all_that_is_asked_for(path):
    config = ConfigParser()
    config.read(SCRIPT.with_name("setup.cfg"))
    extras = config["options.extras_require"]
    extra = next((name for name in ("dev", "docs") if path.stem.endswith(f"-{name}")), "")
    base = locked(path.with_name(path.name.replace(f"-{extra}.txt", ".txt")))
    text = extras[extra] if extra else config["options"]["install_requires"] + extras["test"]
    asked = [re.match(r"[\w.-]+", line)[0] for line in text.splitlines() if line.strip() and line[0] != "#"]
    missing = {name.lower().replace("_", "-") for name in asked} - OF_THE_SYSTEM - set(base) - set(locked(path))
    assert not missing, f"run `make lock`: {path.name} lacks {missing}"


def test_a_lock_goes_with_the_python_of_a_system_alone():
    functions = re.search(r"^system_name\(\).*?^}", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)[0]

    def name(python: str) -> str:
        done = subprocess.run(["sh", "-c", f"{functions}\nsystem_name {python}"], capture_output=True, text=True)
        return done.stdout

    assert name("/opt/conda/bin/python3") == ""
    if os.access("/usr/bin/python3", os.X_OK) and os.access("/etc/os-release", os.R_OK):
        assert re.fullmatch(r"\w+-[\w.]*_python-3\.\d+_\w+\n", name("/usr/bin/python3"))
