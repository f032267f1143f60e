"""Settings of Sphinx; ``make docs`` builds the pages."""

from __future__ import annotations

import re

from diffuse_framework import __version__

project = "diffuse_framework"
author = "the diffuse_framework developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "changes", "plugin_template"]
html_theme = "furo"
html_title = f"diffuse_framework {__version__}"
nitpicky = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Single backquotes in docstrings are names.
default_role = "code"
nitpick_ignore_regex = [
    # Other projects' names; their pages are not at hand where these are built.
    ("py:class", r"(cctbx|collections|numpy|pathlib)[a-z_]*\..*"),
    # Type variables have no page.
    ("py:class", r"diffuse_framework\.stages\.work\.(Item|Result)"),
    # Sphinx cuts the types of arrays of a variable length in two where they are those of attributes.
    ("py:class", r"tuple\[~?numpy.*"),
]


def escape_bars(app, what, name, obj, options, lines):
    r"""Keep ``|q|`` in docstrings, which reStructuredText would take for a substitution."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "".join(parts)


def setup(app):
    """Connect what changes docstrings."""
    app.connect("autodoc-process-docstring", escape_bars)
