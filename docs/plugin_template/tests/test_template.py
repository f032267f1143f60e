"""The contract of a masker, on data drawn at random. Add what your plugin promises beyond it."""

from __future__ import annotations

from diffuse_framework.testing.conformance import conformance_tests

from diffuse_template.masker import TemplateMasker

test_contract = conformance_tests("masker", TemplateMasker)
