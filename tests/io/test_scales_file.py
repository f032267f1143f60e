from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import DataError, PluginError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Plugin, PluginRecord, Registry, record_of
from diffuse_framework.io.scales import read_maker, read_scales, write_scales
from diffuse_framework.model.scales import ErrorModel, ImageScales
from diffuse_framework.testing.checks.common import first_difference
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import known_sums

REGISTRY = load_registry()
SMOOTH = PluginRecord("scaler", "smooth", 2, "diffuse_plugins")
PER_IMAGE = PluginRecord("scaler", "per_image", 2, "diffuse_plugins")
OPTIONS = ScalingOptions(scale="smooth", offset=True, offset_q=0.2, absorption=True, resolution=True)


@pytest.fixture(scope="module")
def fitted():
    known = known_sums(OPTIONS, np.random.default_rng(1), n_images=12, rows_per_image=1000)
    return known, scale_smoothly(known.sums, known.data_set, known.order, Recipe(OPTIONS, outlier_limit=3.0))


def test_a_model_comes_back_as_it_was(fitted, tmp_path):
    known, scales = fitted
    names = known.sums.image_names
    write_scales(tmp_path / "scales.json", scales, names, SMOOTH)
    again = read_scales(tmp_path / "scales.json", names, known.sums.grid, REGISTRY)
    assert isinstance(again, SmoothScales)
    assert len(again.rejected) == len(scales.rejected) > 0
    assert again.error_model == scales.error_model
    for table in known.sums.pieces:
        np.testing.assert_array_equal(again.factor(table), scales.factor(table))
        np.testing.assert_array_equal(again.offset(table), scales.offset(table))
        np.testing.assert_array_equal(again.keep(table), scales.keep(table))


def test_the_file_has_the_keys_of_the_visual_checks(fitted, tmp_path):
    known, scales = fitted
    write_scales(tmp_path / "scales.json", scales, known.sums.image_names, SMOOTH)
    content = json.loads((tmp_path / "scales.json").read_text())
    assert set(content) >= {"refined_parameters", "refinement_statistics", "resolution_smoother"}
    assert content["resolution_smoother"]["enabled"]
    assert len(content["resolution_smoother"]["control_points"]) == scales.layout.components["resolution"].width
    first = content["refined_parameters"][known.sums.image_names[0]]
    assert np.isclose(first["multiplicative_scale"], scales.per_image[0])
    assert np.isclose(first["additive_offset"], scales.offsets_at_images()[0].mean())


def test_scales_of_images_alone_keep_their_error_model(fitted, tmp_path):
    grid = fitted[0].sums.grid
    write_scales(
        tmp_path / "s.json",
        ImageScales(np.array([0.5, 1.5]), np.ones(2), {}, ErrorModel(2.0, 0.1)),
        ("a", "b"),
        PER_IMAGE,
    )
    again = read_scales(tmp_path / "s.json", ("a", "b"), grid, REGISTRY)
    assert again.error_model == ErrorModel(2.0, 0.1)


def test_a_model_of_other_images_is_refused(fitted, tmp_path):
    known, scales = fitted
    write_scales(tmp_path / "s.json", scales, known.sums.image_names, SMOOTH)
    with pytest.raises(DataError, match="other images"):
        read_scales(tmp_path / "s.json", known.sums.image_names[:5], known.sums.grid, REGISTRY)


def test_on_another_grid_the_model_is_the_same_and_its_outliers_are_forgotten(fitted, tmp_path):
    known, scales = fitted
    names = known.sums.image_names
    write_scales(tmp_path / "s.json", scales, names, SMOOTH)
    finer = orthorhombic_grid(divisions=(3, 3, 3))
    again = read_scales(tmp_path / "s.json", names, finer, REGISTRY)
    assert len(again.rejected) == 0
    assert (again.per_image == scales.per_image).all()


@dataclass(frozen=True, eq=False)
class AnyScales:
    """A model that is all that the protocol allows: a factor for each voxel, an offset, rows that are left out."""

    per_image: np.ndarray
    per_image_sigma: np.ndarray
    by_voxel: np.ndarray
    level: float
    odd: bool
    statistics: dict = field(default_factory=dict)
    error_model: ErrorModel = ErrorModel(1.5, 0.02)

    def factor(self, table):
        return self.per_image[table.image] * self.by_voxel[table.voxel]

    def offset(self, table):
        return np.full(len(table), self.level)

    def keep(self, table):
        return (table.voxel % 7 != 0) == self.odd

    def to_plain(self):
        return vars(self) | {"error_model": vars(self.error_model)}


class AcmeScaler:
    """A third party's scaler."""

    name = "acme"
    interface = 2
    phil = ""

    @classmethod
    def from_params(cls, params):
        return cls()

    def fit(self, sums, experiment):
        n, rng = len(sums.image_names), np.random.default_rng(0)
        scales = np.linspace(0.5, 1.5, n)
        return AnyScales(scales, 0.1 * scales, rng.uniform(0.5, 2, sums.grid.size), 3.0, True, {"worst": np.nan})

    @classmethod
    def scales_from_plain(cls, plain, image_names, grid):
        return AnyScales(**{**plain, "error_model": ErrorModel(**plain["error_model"])})


def acme() -> Registry:
    registry = Registry()
    registry.add(Plugin("scaler", "acme", AcmeScaler, "acme_scaler", "1.0"))
    return registry


def test_a_third_partys_model_makes_the_same_map(fitted, tmp_path):
    sums = fitted[0].sums
    scales = AcmeScaler().fit(sums, None)
    write_scales(tmp_path / "s.json", scales, sums.image_names, record_of("scaler", AcmeScaler()))
    again = read_scales(tmp_path / "s.json", sums.image_names, sums.grid, acme())
    assert first_difference(poisson_merge(sums, again), poisson_merge(sums, scales)) is None
    assert read_maker(tmp_path / "s.json").name == "acme"
    assert np.isnan(again.statistics["worst"])


def test_a_scaler_that_is_missing_or_newer_or_anothers_is_named(fitted, tmp_path):
    sums, path = fitted[0].sums, tmp_path / "s.json"
    scales, record = AcmeScaler().fit(sums, None), record_of("scaler", AcmeScaler())
    write_scales(path, scales, sums.image_names, record)
    with pytest.raises(PluginError, match="made by scaler 'acme' of .*can't be used here .*install that package"):
        read_scales(path, sums.image_names, sums.grid, REGISTRY)
    write_scales(path, scales, sums.image_names, replace(record, interface=99))
    with pytest.raises(PluginError, match="for interface 99 of scalers.*install a newer diffuse_framework"):
        read_scales(path, sums.image_names, sums.grid, acme())
    write_scales(path, scales, sums.image_names, replace(record, package="other"))
    with pytest.raises(PluginError, match="of other; the one of that name here is of"):
        read_scales(path, sums.image_names, sums.grid, acme())


def test_what_can_not_be_kept_is_named(fitted, tmp_path):
    sums = fitted[0].sums
    scales = replace(AcmeScaler().fit(sums, None), statistics={"seen": {1, 2}})
    with pytest.raises(DataError, match=r"model of scaler 'acme'\['statistics'\]\['seen'\] is a set"):
        write_scales(tmp_path / "s.json", scales, sums.image_names, record_of("scaler", AcmeScaler()))
    assert not (tmp_path / "s.json").exists()


def test_a_file_of_an_older_version_says_what_to_do(fitted, tmp_path):
    known, scales = fitted
    write_scales(tmp_path / "s.json", scales, known.sums.image_names, SMOOTH)
    content = json.loads((tmp_path / "s.json").read_text())
    content["model"] = {"layout": {}, "parameters": [1.0]}
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="older version of diffuse_framework: run diffuse.scale again"):
        read_scales(tmp_path / "s.json", known.sums.image_names, known.sums.grid, REGISTRY)
