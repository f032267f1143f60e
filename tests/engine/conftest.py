"""The rules of `test_engines` for engines that need a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# In a process of its own: dask has threads, and a process with threads must not fork as others here do.
SCRIPT = """
import sys
import pytest
import test_engines as rules
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.dask import DaskSettings

if __name__ == "__main__":
    method, settings = sys.argv[1], DaskSettings(n_workers=2, memory="2GB", **eval(sys.argv[2]))
    with open_engine(method, 2, settings) as engine:
        assert engine.n_workers == 2
        for name, rule in vars(rules).items():
            if name.startswith("test_") and list(rule.__code__.co_varnames)[: rule.__code__.co_argcount] == ["engine"]:
                print(name, flush=True)
                try:
                    rule(engine)
                except pytest.skip.Exception as reason:
                    # The same rule says so, to pytest, of the engines that need no process of their own.
                    print("  does not apply:", reason)
        for items in ([], [5]):
            rules.test_a_single_item_is_worked_on_here(engine, items)
    print("all well")
"""


@pytest.fixture(scope="session")
def keeps_the_rules() -> Callable[..., None]:
    """Return a function that holds an engine to the rules of `test_engines`."""
    return _keeps_the_rules


def _keeps_the_rules(method: str, settings: dict, folder: Path, launcher: tuple[str, ...] = ()) -> None:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PATH": f"{folder}:{os.environ['PATH']}"}
    command = (
        [*launcher, str(script), method, repr(settings)]
        if launcher
        else [sys.executable, str(script), method, repr(settings)]
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=folder)
    assert done.returncode == 0 and "all well" in done.stdout, done.stdout + done.stderr
