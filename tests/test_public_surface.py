"""What a plugin may import, and that templates, examples and our own plugins import nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Every module below these is public; of the algorithms those are that `__all__` of a package lists.
PACKAGES = ("diffuse_framework.model", "diffuse_framework.stages", "diffuse_framework.services")
# These hand objects of DIALS around.
WRAP_DIALS = (
    "indexer_dials_sequence",
    "indexer_dials_ssx",
    "indexer_dials_stills",
    "indexer_fast_stills",
    "indexer_given",
    "scaler_dials_target",
)


def listed(package: str) -> list[str]:
    """The modules that a package lists, and those that its packages list."""
    found = []
    for name in importlib.import_module(package).__all__:
        module = importlib.import_module(f"{package}.{name}")
        found += listed(module.__name__) if hasattr(module, "__path__") else [module.__name__]
    return found


PUBLIC = ["diffuse_framework.errors", *(name for package in PACKAGES for name in listed(package))]
PUBLIC += listed("diffuse_framework.algorithms")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_of_a_public_package_is_listed(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(found.name for found in pkgutil.iter_modules(module.__path__))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_lists_its_names_and_says_what_they_are(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert module.__all__
    for member in module.__all__:
        value = getattr(module, member)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, f"{name}.{member} has no docstring"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_is_on_the_page_of_the_interface(name):
    assert f".. automodule:: {name}\n" in (ROOT / "docs/plugin_api.md").read_text()


def imports(path: Path) -> set[tuple[str, str]]:
    """(module, name) of everything that a file imports from this project, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
    ours = ("diffuse_framework", "diffuse_plugins")
    return {(module, name) for module, name in found if module.split(".")[0] in ours}


def private(path: Path, also: tuple[str, ...] = ()) -> list[str]:
    """What a file imports from this project that is not public."""
    return [
        f"{module}.{name}"
        for module, name in sorted(imports(path))
        if (module, name) != ("diffuse_framework", "hookimpl")
        and not module.startswith(also)
        and not (module in PUBLIC and name in importlib.import_module(module).__all__)
    ]


def of_third_parties() -> list[Path]:
    templates = (ROOT / "diffuse_framework/templates").glob("[!_]*.py")
    return sorted([*templates, *(ROOT / "examples").rglob("*.py"), *(ROOT / "docs/plugin_template").rglob("*.py")])


def test_there_are_templates_and_examples_to_look_at():
    assert len(of_third_parties()) > 12


@pytest.mark.parametrize("path", of_third_parties(), ids=lambda path: str(path.relative_to(ROOT)))
def test_templates_and_examples_import_the_public_surface_only(path):
    # Their tests take the contract kit.
    also = ("diffuse_framework.testing",) if "tests" in path.parts[-2:] else ()
    assert private(path, also) == []


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.stem)
def test_our_plugins_do_with_the_same_and_all_algorithms(path):
    also = ("diffuse_framework.algorithms",)
    if path.stem in WRAP_DIALS:
        # The target of DIALS is the smooth scaler with another minimiser.
        also = (*also, "diffuse_framework.adapters", "diffuse_plugins.scaler_smooth")
    assert private(path, also) == []
