"""How a command fails: one clear line for what a user can mend, a traceback for what we must."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from diffuse_framework.errors import DiffuseError

CONTACT = "the issue tracker of diffuse_framework, with the log file"


def report_failures() -> Callable[[Callable], Callable]:
    """Return a decorator for a command's ``run``: errors become a message and a non-zero exit."""

    def decorate(run: Callable) -> Callable:
        @functools.wraps(run)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            try:
                run(*args, **kwargs)
            except DiffuseError as error:
                _say(f"Error: {error}")
                sys.exit(1)
            except MemoryError:
                _say(
                    "Error: memory ran out; finished work is kept: run the same command again with fewer voxels "
                    "(grid.hkl.d_min=, grid.hkl.divisions=), a smaller mp.nproc=, or more memory"
                )
                sys.exit(1)
            except KeyboardInterrupt:
                _say("Stopped; finished files are kept")
                sys.exit(130)
            except BrokenPipeError:
                # Whoever read our output, head for example, has gone.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(141)
            # Anything else is a mistake in this program or in a plugin, and deserves its traceback.
            except Exception:
                _say(
                    f"{traceback.format_exc()}\nThis is a mistake in the program or in a plugin, not in your "
                    f"input. Please report it to {CONTACT}."
                )
                sys.exit(70)

        return wrapped

    return decorate


def _say(message: str) -> None:
    """Write to standard error, and to the log file where there is one."""
    print(message, file=sys.stderr, flush=True)
    for handler in logging.getLogger("diffuse_framework").handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logging.makeLogRecord({"msg": message, "levelno": logging.ERROR}))
