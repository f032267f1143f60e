"""Every default plugin keeps the contract of its stage."""

from __future__ import annotations

import pytest

from diffuse_framework.host.loader import load_registry
from diffuse_framework.testing.conformance import conformance_tests

# Those that wrap DIALS need a source of DIALS: test_indexers_on_files has their contract, and the tests
# of sweeps from the command line that of dials_sequence.
ON_FILES = ("dials_sequence", "dials_ssx", "dials_stills", "fast_stills", "given")

# Plugins that do nothing with their defaults, and say so.
CONTENTS = "contents.formula = C20 H32 N6 O6\nbreit_dirac = False\nmin_completeness = 0.1"
PARAMETERS = {"background": "constant = 0.5\nsigma = 0.1"} | dict.fromkeys(("krogh_moe", "norman", "wilson"), CONTENTS)

PLUGINS = [
    plugin
    for plugin in load_registry().plugins.values()
    if plugin.package == "diffuse_framework" and plugin.name not in ON_FILES
]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: f"{plugin.stage}-{plugin.name}")
def test_a_default_plugin_keeps_its_contract(plugin):
    parameters = PARAMETERS.get(plugin.name, "")
    conformance_tests(plugin.stage, plugin.factory, parameters, max_examples=15)()


def test_a_stage_that_there_is_not_is_said():
    with pytest.raises(ValueError, match="there is no stage 'scalar'; there are indexer"):
        conformance_tests("scalar", object)
