"""Parameters named in part, as DIALS takes them, and names that come close to a mistyped one."""

from __future__ import annotations

import difflib
import re
from typing import Any

from libtbx.phil.command_line import argument_interpreter

from diffuse_framework.errors import ConfigError

# As many as fit in one line.
_MOST_LISTED = 8


def in_full(setting: str, scope: Any) -> str:
    """Return a setting such as ``d_min=2`` with the whole path of the parameter that it means.

    Of several that it may mean DIALS takes the one of the lowest expert level, and so do we, without a warning: a
    word that a plugin shares with a parameter that everybody sets means the latter.

    Args:
        setting: name and value; what is no plain name stays as it is.
        scope: PHIL scope of all parameters.

    Raises:
        ConfigError: it means no parameter, or may mean several.
    """
    parsed = re.match(r"([\w.]+)\s*=", setting)
    if not parsed:
        return setting
    name = parsed.group(1)
    definitions = scope.all_definitions()
    score = argument_interpreter(master_phil=scope).get_path_score
    scored = [(score(name, item.path), -level_of(item), item.path) for item in definitions]
    best = max(scored)[:2]
    if best[0] == 0:
        likeliest_first = [path for *_, path in sorted(scored, key=lambda item: -item[1])]
        raise ConfigError(f"there is no parameter {name}{_similar(name, likeliest_first)}")
    paths = list(dict.fromkeys(path for *key, path in scored if tuple(key) == best))
    if len(paths) > 1:
        listed = ", ".join(paths[:_MOST_LISTED]) + (", ..." if len(paths) > _MOST_LISTED else "")
        raise ConfigError(f"{name} may mean {listed}: give more of its path")
    return paths[0] + setting[parsed.end(1) :]


def level_of(definition: Any) -> int:
    """Return the expert level of one of a scope's ``all_definitions()``: its own, or that of a scope around it."""
    part = definition.object
    while part is not None:
        if part.expert_level is not None:
            return int(part.expert_level)
        part = part.primary_parent_scope
    return 0


def _similar(name: str, paths: list[str]) -> str:
    """Return a question after those of `paths`, likeliest first, that are spelt nearly like `name`."""
    depth = name.count(".") + 1
    by_end: dict[str, list[str]] = {}
    for path in paths:
        by_end.setdefault(".".join(path.split(".")[-depth:]), []).append(path)
    close = difflib.get_close_matches(name, by_end, n=1, cutoff=0.75)
    if not close:
        return "; -c -e 2 lists all"
    return f"; did you mean {' or '.join(dict.fromkeys(by_end[close[0]][:3]))}?"
