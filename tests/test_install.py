"""install.sh installs no package of the system before someone said yes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
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
