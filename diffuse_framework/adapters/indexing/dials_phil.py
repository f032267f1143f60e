"""DIALS's own parameters: its defaults, ours, the user's files, and what must not be changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from diffuse_framework.adapters.guards.phil import refuse_includes
from diffuse_framework.adapters.guards.pickles import admit_masks
from diffuse_framework.adapters.indexing.shims import provide_missing_modules
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import CrystalHints

# Of the user's DIALS files: parameters that have another home here, and where.
_ELSEWHERE = {
    "input": "on the command line of diffuse.process",
    "geometry": "as geometry.* of diffuse.process, or input.reference_geometry",
}

# Modules of DIALS that read the files of lookup.mask=.
_READ_MASKS = ("dials.algorithms.spot_finding.factory", "dials.algorithms.integration.integrator")


@dataclass(frozen=True)
class DialsParameters:
    """The parameters of one DIALS program.

    Attributes:
        module: that has the program's PHIL scope.
        scope: name of the scope in that module.
        texts: PHIL texts in order, each overriding those before; pairs of the name to use in
            messages and the text.
    """

    module: str
    scope: str
    texts: tuple[tuple[str, str], ...]

    def check(self) -> None:
        """Find mistakes before any work is done.

        Raises:
            ConfigError: a text that doesn't parse, or a parameter DIALS doesn't have.
        """
        self.fresh()

    def fresh(self) -> Any:
        """Return newly extracted parameters; DIALS changes them, so every image needs its own.

        Raises:
            ConfigError: as for `check`.
        """
        from libtbx.utils import Sorry

        scope = _working_scope(self)
        try:
            return scope.extract()
        except (RuntimeError, Sorry) as error:
            raise ConfigError(f"DIALS parameters: {_first_line(error)}") from error


@lru_cache(maxsize=8)
def _working_scope(parameters: DialsParameters) -> Any:
    from libtbx.phil import parse

    provide_missing_modules()
    scope = getattr(import_module(parameters.module), parameters.scope)
    for module in _READ_MASKS:
        admit_masks(module)
    for name, text in parameters.texts:
        try:
            scope, unknown = scope.fetch(source=parse(text), track_unused_definitions=True)
            if unknown:
                raise RuntimeError(f"{parameters.module.rpartition('.')[2]} has no parameter {unknown[0]}")
            scope.extract()
        # libtbx raises RuntimeError and its user's error Sorry, an Exception of its own.
        except Exception as error:
            raise ConfigError(f"{name}: {_first_line(error)}") from error
    return scope


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n", 1)[0].split())


def user_texts(paths: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Read the user's DIALS parameter files.

    Raises:
        ConfigError: a file that can't be read or parsed, or a parameter that has another home.
    """
    from libtbx.phil import parse

    texts = []
    for path in paths:
        try:
            text = Path(path).read_text()
            definitions = parse(text).all_definitions()
        except OSError as error:
            raise ConfigError(f"can't read the DIALS parameters {path}: {error.strerror}") from error
        except (UnicodeDecodeError, RuntimeError) as error:
            raise ConfigError(f"{path}: {_first_line(error)}") from error
        refuse_includes(path, text)
        for definition in definitions:
            home = _ELSEWHERE.get(definition.path.partition(".")[0])
            if home is not None:
                raise ConfigError(f"{path}: give {definition.path} {home}")
        texts.append((str(path), text))
    return tuple(texts)


def phil_paths(paths: Any) -> tuple[str, ...]:
    """Return the files named by a parameter of ``.type = path .multiple = True``.

    Raises:
        ConfigError: a file that isn't there.
    """
    named = tuple(str(path) for path in paths or () if path is not None)
    for path in named:
        if not Path(path).is_file():
            raise ConfigError(f"there is no file of DIALS parameters {path}")
    return named


def hint_text(hints: CrystalHints) -> tuple[str, str]:
    """Return what is known of the crystal as DIALS indexing parameters."""
    lines = []
    if hints.unit_cell is not None:
        cell = ",".join(f"{value:.10g}" for value in hints.unit_cell)
        lines.append(f"indexing.known_symmetry.unit_cell = {cell}")
    if hints.space_group is not None:
        lines.append(f'indexing.known_symmetry.space_group = "{hints.space_group}"')
    return "crystal.unit_cell, crystal.space_group", "\n".join(lines)


# The DIALS programs that our indexers go through, by the name of the indexer's parameter for their files.
_PROGRAMS = {
    "dials_ssx": {
        "find_spots": ("find_spots", "phil_scope"),
        "index": ("ssx_index", "phil_scope"),
        "integrate": ("ssx_integrate", "working_phil"),
    },
    "dials_sequence": {
        "find_spots": ("find_spots", "phil_scope"),
        "index": ("index", "working_phil"),
        "refine": ("refine", "working_phil"),
        "integrate": ("integrate", "working_phil"),
    },
}


@dataclass(frozen=True)
class SplitParameters:
    """The parameters of a user's file for one indexer.

    Attributes:
        texts: for each program, as PHIL, those it has.
        unused: names of those that none of the indexer's programs has.
    """

    texts: dict[str, str]
    unused: tuple[str, ...]


def split_user_file(path: Path) -> dict[str, SplitParameters]:
    """Return the parameters of one DIALS file apart, for each indexer and each of its programs.

    Raises:
        ConfigError: a file that can't be read, or a parameter that no program has.
    """
    from libtbx.phil import parse

    ((_, text),) = user_texts((str(path),))
    provide_missing_modules()
    source = parse(text)
    definitions = source.all_definitions()
    split: dict[str, SplitParameters] = {}
    for indexer, programs in _PROGRAMS.items():
        texts = {}
        used: set[str] = set()
        for program, (module, name) in programs.items():
            scope = getattr(import_module(f"dials.command_line.{module}"), name)
            _, missing = scope.fetch(source=source, track_unused_definitions=True)
            strange = {item.path for item in missing}
            known = [d for d in definitions if d.path not in strange]
            used |= {d.path for d in known}
            texts[program] = "\n".join(f"{d.path} = {' '.join(map(str, d.object.words))}" for d in known)
        split[indexer] = SplitParameters(texts, tuple(d.path for d in definitions if d.path not in used))
    nowhere = sorted(set.intersection(*(set(one.unused) for one in split.values())))
    if nowhere:
        names = sorted({f"dials.{module}" for programs in _PROGRAMS.values() for module, _ in programs.values()})
        raise ConfigError(f"{path}: none of {', '.join(names)} has {', '.join(nowhere)}")
    return split
