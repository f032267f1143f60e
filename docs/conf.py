"""Settings of Sphinx; ``make docs`` builds the pages."""

from __future__ import annotations

from diffuse_framework import __version__

project = "diffuse_framework"
author = "the diffuse_framework developers"
version = release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "changes", "plugin_template"]
html_theme = "furo"
html_title = f"diffuse_framework {__version__}"
nitpicky = True
