"""Every parameter says what it is, in what unit and within what bounds, and the documentation has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffuse_framework.command_line.parameters import own_plugins, parameters_page
from diffuse_framework.command_line.shared.scopes import SCOPES
from diffuse_framework.host.loader import load_registry

ROOT = Path(__file__).parents[2]
REGISTRY = own_plugins(load_registry())
PARAMETERS = {
    item.path: item.object
    for scope_of in SCOPES.values()
    for item in scope_of(REGISTRY).all_definitions()
    # DIALS's own.
    if not item.path.startswith("geometry.")
}
NUMBERS = {path: item for path, item in PARAMETERS.items() if item.type.phil_type in ("int", "float", "ints", "floats")}

# What a number may be measured in.
UNITS = (
    r"angstrom|degree|pixel|photon|MiB|second|\bmm\b|1/mm|kelvin|atmosphere|steradian|\bsr\b|fraction|share|relative|"
    r"probability|times|miller|ratio|number of|standard deviation|sigma"
)
# Numbers that have no bounds, and why.
UNBOUNDED = {
    "detector.beam_centre": "the beam may miss the detector",
    "detector.trusted_range": "likewise",
    "masker.filter.min_intensity": "a background may be subtracted from it",
    "masker.filter.max_intensity": "likewise",
    "masker.trusted.resolution_range": "the masker says itself what is no range",
    "masker.trusted.beamstop.circle": "a shape may reach off the panel",
    "masker.trusted.beamstop.rectangle": "likewise",
    "masker.trusted.beamstop.polygon": "likewise",
    "masker.trusted.untrusted.circle": "likewise",
    "masker.trusted.untrusted.rectangle": "likewise",
    "masker.trusted.untrusted.polygon": "likewise",
}


@pytest.mark.parametrize("path", PARAMETERS)
def test_it_has_a_type_and_a_sentence_of_help(path):
    definition = PARAMETERS[path]
    assert definition.type is not None
    help_text = " ".join((definition.help or "").split())
    assert len(help_text) > 8 and help_text[0].isupper() and help_text.endswith((".", "..", ")")), help_text


@pytest.mark.parametrize("path", NUMBERS)
def test_a_number_has_bounds(path):
    kind = NUMBERS[path].type
    bounded = kind.value_min is not None or kind.value_max is not None
    assert bounded != (path in UNBOUNDED), "give it bounds, or a reason above"


@pytest.mark.parametrize("path", [path for path, item in NUMBERS.items() if item.type.phil_type.startswith("float")])
def test_a_measured_number_has_a_unit(path):
    assert re.search(UNITS, NUMBERS[path].help, re.IGNORECASE), NUMBERS[path].help


def test_no_reason_is_given_for_a_parameter_that_is_gone():
    assert set(UNBOUNDED) <= set(NUMBERS)


def test_the_documentation_has_them_all():
    page = (ROOT / "docs" / "parameters.md").read_text()
    assert page == parameters_page(REGISTRY), "run dev.diffuse.parameters docs/parameters.md"
    for path in PARAMETERS:
        assert f"`{path}`" in page or path.rpartition(".")[2] in ("plugin", "plugins")
