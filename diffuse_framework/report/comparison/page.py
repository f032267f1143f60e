"""A comparison as one HTML page that needs nothing but a browser."""

from __future__ import annotations

import base64
import io

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from diffuse_framework.algorithms.comparison.compare import Comparison
from diffuse_framework.report.comparison.pictures import curves_figure, scatter_figure, slices_figure
from diffuse_framework.report.comparison.text import HEAD, KIND_WORDS, shell_rows

__all__ = ["comparison_page"]

_DPI = 90


def comparison_page(comparison: Comparison, version: str = "", made: str = "") -> str:
    """Return the page: what was found, slices of both maps and of their difference, curves, and tables.

    Args:
        comparison: of two maps.
        version: of this program.
        made: when.
    """
    environment = Environment(
        loader=PackageLoader("diffuse_framework.report.page", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "report.css")[0]
    figures = [
        ("Agreement by resolution", _CURVES, _png(curves_figure(comparison))),
        ("Voxel by voxel", _SCATTER, _png(scatter_figure(comparison))),
        *((f"The plane {'hkl'[axis]} = 0", _SLICES, _png(slices_figure(comparison, axis))) for axis in (2, 1, 0)),
    ]
    tables = [(KIND_WORDS[kind].capitalize(), shell_rows(comparison, kind)) for kind in comparison.kinds]
    return environment.get_template("comparison.html.j2").render(
        comparison=comparison,
        whole=comparison.overall["all"],
        figures=figures,
        tables=tables,
        head=HEAD,
        style=style,
        version=version,
        made=made,
    )


_CURVES = (
    "Correlation of the anisotropic parts of both maps, with the band that holds 95 %, and what noise allows: where "
    "there are half maps, in the voxels that they have (dotted). Chi squared of the difference, 1 where errors explain "
    "it. What B was multiplied by, and what was added to it."
)
_SCATTER = "The density of voxels; on the dashed line both maps are equal."
_SLICES = (
    "A, B on the scale of A, their difference, and the difference over its error, from -5 to 5. Noise alone looks like "
    "grain; what has a shape is no noise. Grey was not observed in both."
)


def _png(figure: Figure) -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI, bbox_inches="tight")
    return base64.b64encode(png.getvalue()).decode()
