"""Plugins that each break one rule of their stage, and what the kit must say of it.

Every one is a working plugin with one fault. `BROKEN` lists stage, class and a part of the message.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from diffuse_framework.algorithms.binning import VoxelAdder, sum_by
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.symmetry import asymmetric_box
from diffuse_framework.errors import ConfigError, GeometryError
from diffuse_framework.model.conventions import DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment, Image, Rejected, Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.model.maps import AbsoluteMap
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import Background
from diffuse_framework.model.reindexing import unchanged
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import concatenate

BROKEN: list[tuple[str, type, str]] = []


def broken(stage: str, message: str):
    """Put a class on the list."""

    def add(factory: type) -> type:
        BROKEN.append((stage, factory, message))
        return factory

    return add


# --- sound plugins to break ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """Works."""

    name: ClassVar[str] = "sound"
    phil: ClassVar[str] = ""

    @classmethod
    def from_params(cls, params: Any):
        return cls()


@dataclass(frozen=True)
class SoundIndexer(Sound):
    interface: ClassVar[int] = 2

    def index(self, source, hints, folder, mapper):
        return self.experiment(source)

    def experiment(self, source) -> Experiment:
        inversion = np.array([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
        images = tuple(
            Image(name, n, 0, source.exposure_s(n), reciprocal_basis((20.0, 25.0, 30.0, 90.0, 90.0, 90.0)))
            for n, name in enumerate(source.names)
        )
        return Experiment((source.geometry(0),), Symmetry("P1", "-1", inversion, np.eye(3, dtype=np.int64)), images)


@dataclass(frozen=True)
class SoundMasker(Sound):
    def prepare(self, source, experiment, mapper):
        return self

    def static_mask(self, geometry, pixels):
        return None

    def image_mask(self, frame, image, geometry, pixels):
        with np.errstate(invalid="ignore"):
            return PixelMask(
                tuple(np.where(values >= 0, DIFFUSE, UNTRUSTED).astype(np.uint8) for values in frame.counts)
            )


@dataclass(frozen=True)
class SoundCorrector(Sound):
    def factor(self, geometry):
        return tuple(np.full(panel.shape, 0.5) for panel in geometry.panels)

    def background(self, image, geometry):
        return None


@dataclass(frozen=True)
class SoundGrid(Sound):
    def build(self, experiment):
        return self.of(experiment, experiment.symmetry, (2, 2, 2))

    def of(self, experiment, symmetry, divisions) -> VoxelGrid:
        cell = tuple(np.median(experiment.cells(), axis=0).tolist())
        count, low, high = asymmetric_box(symmetry, divisions, reciprocal_basis(cell), 3.0)
        box = tuple(low.tolist()), tuple((high - low + 1).tolist())
        return VoxelGrid(cell, experiment.symmetry, divisions, *box, 3.0, np.inf, count)


class SoundAdder:
    def __init__(self, grid):
        self.voxels = VoxelAdder(grid)

    def add(self, number, image, frame, mask, background, pixels, geometry):
        tables = [
            self.voxels.add(
                number,
                n,
                frame.counts[n],
                mask.panels[n],
                pixels.q[n],
                pixels.response[n],
                image.setting_matrix,
                image.exposure_s,
                panel.gain,
                panel.pedestal,
                background.counts[n] if background else None,
                background.variance[n] if background else None,
            )
            for n, panel in enumerate(geometry.panels)
        ]
        return concatenate(tables)


@dataclass(frozen=True)
class SoundAccumulator(Sound):
    def adder(self, grid):
        return SoundAdder(grid)


@dataclass(frozen=True)
class SoundScaler(Sound):
    def fit(self, sums, experiment):
        return self.scales(self.rates(sums))

    def rates(self, sums):
        photons, exposure = self.totals(sums)
        return np.maximum(photons, 1) / np.maximum(exposure, 1e-30)

    def totals(self, sums):
        n = len(sums.image_names)
        photons, exposure = np.zeros(n), np.zeros(n)
        for table in sums.tables():
            photons += sum_by(table.image, table.counts, n)
            exposure += sum_by(table.image, table.exposure, n)
        return photons, np.where(exposure > 0, exposure, exposure.max(initial=0) or 1)

    def scales(self, rates):
        scales = rates / rates.mean()
        return ImageScales(scales, 0.1 * scales)

    interface: ClassVar[int] = 2

    @classmethod
    def scales_from_plain(cls, plain, image_names, grid):
        return ImageScales.from_plain(plain)


@dataclass(frozen=True)
class SoundMerger(Sound):
    def merge(self, sums, scales):
        return poisson_merge(sums, scales)


@dataclass(frozen=True)
class SoundAbsoluteScaler(Sound):
    def scale(self, merged, scales, experiment):
        return self.times(merged, 2.0)

    def times(self, merged, k):
        return AbsoluteMap(merged, k * merged.intensity, k**2 * merged.variance, k, 0.0, "electrons")


@dataclass(frozen=True)
class SoundValidator(Sound):
    def validate(self, experiment, source, hints, mapper):
        return self.without(experiment, experiment.images[1:])

    def without(self, experiment, images):
        rejected = tuple(Rejected(image.name, "validation", "too many") for image in images)
        return replace(experiment, images=experiment.images[:1], rejected=experiment.rejected + rejected)


@dataclass(frozen=True)
class SoundReindexer(Sound):
    def reindex(self, sums, experiment):
        return unchanged(len(experiment.images))


SOUND = {
    "indexer": SoundIndexer,
    "validator": SoundValidator,
    "masker": SoundMasker,
    "corrector": SoundCorrector,
    "grid": SoundGrid,
    "accumulator": SoundAccumulator,
    "reindexer": SoundReindexer,
    "scaler": SoundScaler,
    "merger": SoundMerger,
    "absolute_scaler": SoundAbsoluteScaler,
}
for _factory in SOUND.values():
    _factory.__doc__ = "Works."


# --- faults that any plugin may have ---------------------------------------------------------------------


@broken("scaler", "does not pickle")
@dataclass(frozen=True)
class Unpicklable(SoundScaler):
    """Holds a function that has no name."""

    weight: Any = field(default_factory=lambda: lambda table: table.counts)


@broken("scaler", "is another object after pickling")
@dataclass(frozen=True)
class Forgetful(SoundScaler):
    """Loses its width on the way to a worker."""

    width: float = 0.0

    @classmethod
    def from_params(cls, params):
        return cls(3.0)

    def __reduce__(self):
        return Forgetful, ()


@broken("scaler", "is not a frozen dataclass")
class Loose(SoundScaler):
    """Wants to keep notes."""

    __dataclass_params__ = type("Params", (), {"frozen": False})


@broken("scaler", r"has no fit and no scales_from_plain; see diffuse_framework/stages/scaler.py")
@dataclass(frozen=True)
class NoFit(Sound):
    """Has nothing to offer."""


@broken("scaler", r"fit is called with \(sums, experiment\), but too many positional")
@dataclass(frozen=True)
class OldSignature(SoundScaler):
    """Was written before experiments."""

    def fit(self, sums):
        raise NotImplementedError


@broken("scaler", "is written for interface 99 of scaler")
@dataclass(frozen=True)
class FromTheFuture(SoundScaler):
    """Was written for what comes."""

    interface: ClassVar[int] = 99


@broken("scaler", "parameter width has no .help")
@dataclass(frozen=True)
class Silent(SoundScaler):
    """Says nothing of its parameter."""

    phil: ClassVar[str] = "width = 1.0\n.type = float"


@broken("scaler", "its parameters don't parse")
@dataclass(frozen=True)
class Unreadable(SoundScaler):
    """Has a type that PHIL does not know."""

    phil: ClassVar[str] = "width = 1.0\n.type = flaot"


@broken("scaler", "from_params asks for a parameter that its phil does not have")
@dataclass(frozen=True)
class Misnamed(SoundScaler):
    """Looks for width, and calls it something else."""

    phil: ClassVar[str] = 'size = 1.0\n.type = float\n.help = "Size."'

    @classmethod
    def from_params(cls, params):
        return cls(params.width)


@broken("scaler", "refuses its own defaults")
@dataclass(frozen=True)
class RefusesItsDefaults(SoundScaler):
    """Has defaults that contradict each other."""

    @classmethod
    def from_params(cls, params):
        raise ConfigError("width and height can't both be given")


@broken("scaler", "can't name a scaler")
@dataclass(frozen=True)
class BadlyNamed(SoundScaler):
    """Is called None."""

    name: ClassVar[str] = "none"


# --- indexers --------------------------------------------------------------------------------------------


@broken("indexer", "each image must be one of them, once")
@dataclass(frozen=True)
class LosesImages(SoundIndexer):
    """Drops the last image without a word."""

    def index(self, source, hints, folder, mapper):
        experiment = self.experiment(source)
        return replace(experiment, images=experiment.images[: max(1, len(source) - 1)])


@broken("indexer", "rejected without a reason")
@dataclass(frozen=True)
class RefusesSilently(SoundIndexer):
    """Refuses without saying why."""

    def index(self, source, hints, folder, mapper):
        experiment = self.experiment(source)
        if len(source) == 1:
            return experiment
        return replace(
            experiment, images=experiment.images[:-1], rejected=(Rejected(source.names[-1], "indexing", ""),)
        )


@broken("indexer", "singular or left-handed")
@dataclass(frozen=True)
class LeftHanded(SoundIndexer):
    """Mirrors the crystal."""

    def index(self, source, hints, folder, mapper):
        experiment = self.experiment(source)
        images = tuple(replace(image, setting_matrix=-image.setting_matrix) for image in experiment.images)
        return replace(experiment, images=images)


@broken("indexer", "not in the order of the source")
@dataclass(frozen=True)
class Shuffles(SoundIndexer):
    """Returns the last image first."""

    def index(self, source, hints, folder, mapper):
        experiment = self.experiment(source)
        return replace(experiment, images=experiment.images[::-1])


@broken("indexer", "returns an experiment without images")
@dataclass(frozen=True)
class ReturnsNothing(SoundIndexer):
    """Indexes nothing, and returns it."""

    def index(self, source, hints, folder, mapper):
        return replace(self.experiment(source), images=())


# --- maskers ---------------------------------------------------------------------------------------------


# --- validators and reindexers ---------------------------------------------------------------------------


@broken("validator", "are kept and .* rejected; each must be one of them, once")
@dataclass(frozen=True)
class DropsSilently(SoundValidator):
    """Keeps the first image and says nothing of the others."""

    def without(self, experiment, images):
        return replace(experiment, images=experiment.images[:1])


@broken("validator", "is rejected without a reason")
@dataclass(frozen=True)
class GivesNoReason(SoundValidator):
    """Rejects without saying why."""

    def without(self, experiment, images):
        rejected = tuple(Rejected(image.name, "validation", " ") for image in images)
        return replace(experiment, images=experiment.images[:1], rejected=rejected)


@broken("validator", "changes an image that it keeps")
@dataclass(frozen=True)
class MendsImages(SoundValidator):
    """Straightens the orientation of what it was to judge."""

    def without(self, experiment, images):
        return replace(
            experiment, images=tuple(replace(i, setting_matrix=2 * i.setting_matrix) for i in experiment.images)
        )


@broken("reindexer", "has not the determinant 1")
@dataclass(frozen=True)
class TurnsTheHand(SoundReindexer):
    """Indexes all images with the inverse of their indices."""

    def reindex(self, sums, experiment):
        same = unchanged(len(experiment.images))
        return replace(same, operators=-same.operators)


@broken("reindexer", "gives another answer when it is asked again")
@dataclass(frozen=True)
class GuessesAnew(SoundReindexer):
    """Leaves out images by chance."""

    def reindex(self, sums, experiment):
        same = unchanged(len(experiment.images))
        return replace(same, keep=np.random.default_rng().random(len(same.keep)) < 0.5)


@broken("reindexer", r"operators are int64 of shape \(3, 3\)")
@dataclass(frozen=True)
class OneForAll(SoundReindexer):
    """Returns one operator, whatever the number of images."""

    def reindex(self, sums, experiment):
        same = unchanged(len(experiment.images))
        return replace(same, operators=np.eye(3, dtype=np.int64))


@broken("masker", r"unmasks: its mask holds \[3\], which is no class")
@dataclass(frozen=True)
class Unmasks(SoundMasker):
    """Wants its favourite pixels back."""

    def image_mask(self, frame, image, geometry, pixels):
        return PixelMask(tuple(np.full(panel.shape, 3, np.uint8) for panel in geometry.panels))


@broken("masker", "its mask is of type bool")
@dataclass(frozen=True)
class TrueMeansUse(SoundMasker):
    """Takes a mask for true and false."""

    def image_mask(self, frame, image, geometry, pixels):
        return PixelMask(tuple(values >= 0 for values in frame.counts))


@broken("masker", r"image_mask changes what it is given: frame.counts\[0\]")
@dataclass(frozen=True)
class Repairs(SoundMasker):
    """Repairs marked pixels in place, so that no other masker sees them."""

    def image_mask(self, frame, image, geometry, pixels):
        for values in frame.counts:
            values[0, 0] = values[0, 0] + 1 if np.isfinite(values[0, 0]) else 0
        return None


@broken("masker", "image_mask changes the plugin itself: self.seen")
@dataclass(frozen=True)
class Remembers(SoundMasker):
    """Masks what was bright on the image before."""

    seen: list = field(default_factory=list)

    def image_mask(self, frame, image, geometry, pixels):
        self.seen.append(frame.name)
        return None


@broken("masker", "gives other masks after pickling, or for the same image again")
@dataclass(frozen=True)
class ThrowsDice(SoundMasker):
    """Leaves out a different tenth of the pixels each time."""

    def image_mask(self, frame, image, geometry, pixels):
        rng = np.random.default_rng()
        return PixelMask(tuple(rng.integers(0, 3, panel.shape).astype(np.uint8) for panel in geometry.panels))


@broken("masker", "arrays of shapes")
@dataclass(frozen=True)
class FirstPanelOnly(SoundMasker):
    """Has never seen a detector of two panels."""

    def static_mask(self, geometry, pixels):
        shape = geometry.panels[0].shape
        return PixelMask((np.full((shape[0] + 1, shape[1]), DIFFUSE),))


# --- correctors ------------------------------------------------------------------------------------------


@broken("corrector", "factor on panel_0 is NaN or infinite")
@dataclass(frozen=True)
class NanCorrector(SoundCorrector):
    """Divides by a thickness that may be 0."""

    def factor(self, geometry):
        return tuple(np.full(panel.shape, np.nan) for panel in geometry.panels)


@broken("corrector", "is zero or negative")
@dataclass(frozen=True)
class ZeroCorrector(SoundCorrector):
    """Takes an unknown sensor for one that absorbs nothing."""

    def factor(self, geometry):
        return tuple(np.zeros(panel.shape) for panel in geometry.panels)


@broken("corrector", r"background.counts is negative")
@dataclass(frozen=True)
class NegativeBackground(SoundCorrector):
    """Subtracts a background that was subtracted before."""

    def background(self, image, geometry):
        counts = tuple(np.full(panel.shape, -1, np.float32) for panel in geometry.panels)
        return Background(counts, counts)


@broken("corrector", "factor differs after pickling, or when repeated")
@dataclass(frozen=True)
class NoisyCorrector(SoundCorrector):
    """Integrates by Monte Carlo without a seed."""

    def factor(self, geometry):
        rng = np.random.default_rng()
        return tuple(rng.uniform(0.9, 1.1, panel.shape) for panel in geometry.panels)


# --- grids -----------------------------------------------------------------------------------------------


@broken("grid", "folding is not idempotent|fold into no asymmetric unit|symmetry equivalents fold to different")
@dataclass(frozen=True)
class NotIdempotent(SoundGrid):
    """Folds with an asymmetric unit that its operators do not fill."""

    def build(self, experiment):
        grid = self.of(experiment, experiment.symmetry, (2, 2, 2))
        skew = np.array([[1, 1, 0], [0, 1, 1], [1, 0, -1]])
        return replace(grid, symmetry=replace(grid.symmetry, asu_matrix=skew))


@broken("grid", "cannot be folded .*mixes the axes h and k")
@dataclass(frozen=True)
class UnevenDivisions(SoundGrid):
    """Divides a cell differently along a and b where symmetry mixes them."""

    def build(self, experiment):
        if not experiment.symmetry.laue_group.startswith(("4", "-3", "6")):
            raise GeometryError("is for tetragonal, trigonal and hexagonal crystals")
        grid = self.of(experiment, experiment.symmetry, (2, 2, 2))
        return replace(grid, divisions=(2, 3, 2))


@broken("grid", "lie outside the box")
@dataclass(frozen=True)
class SmallBox(SoundGrid):
    """Forgets that both ends of a box count."""

    def build(self, experiment):
        grid = self.of(experiment, experiment.symmetry, (2, 2, 2))
        return replace(grid, dimensions=tuple(n - 1 for n in grid.dimensions))


@broken("grid", "is of Laue group -1, the crystal of")
@dataclass(frozen=True)
class ForgetsSymmetry(SoundGrid):
    """Works in P1, whatever the crystal."""

    def build(self, experiment):
        if experiment.symmetry.laue_group == "-1":
            raise GeometryError("is P1 already")
        grid = self.of(experiment, experiment.symmetry, (1, 1, 1))
        inversion = np.array([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
        return replace(grid, symmetry=Symmetry("P1", "-1", inversion, np.eye(3, dtype=np.int64)))


# --- accumulators ----------------------------------------------------------------------------------------


class LeakyAdder(SoundAdder):
    """Never empties its scratch memory."""

    def __init__(self, grid):
        super().__init__(grid)
        self.left = 0.0

    def add(self, number, *rest):
        table = super().add(number, *rest)
        first, self.left = self.left, float(number)
        background = table.background_variance + np.float32(first)
        return replace(table, background_variance=background)


@broken("accumulator", "depend on which images were added before it.*column .background_variance")
@dataclass(frozen=True)
class OrderDependent(SoundAccumulator):
    """Leaves something of each image for the next."""

    def adder(self, grid):
        return LeakyAdder(grid)


class PoorAdder(SoundAdder):
    def add(self, *given):
        table = super().add(*given)
        return table.select(table.counts != 0)


@broken("accumulator", "some are lost|is not additive")
@dataclass(frozen=True)
class DropsZeros(SoundAccumulator):
    """Takes voxels without photons for unobserved."""

    def adder(self, grid):
        return PoorAdder(grid)


class GenerousAdder(SoundAdder):
    def add(self, *given):
        table = super().add(*given)
        return replace(table, pixels=2 * table.pixels)


@broken("accumulator", "column pixels adds up to .* some are counted twice")
@dataclass(frozen=True)
class CountsTwice(SoundAccumulator):
    """Counts pixels on the border of two voxels in both."""

    def adder(self, grid):
        return GenerousAdder(grid)


class ThresholdAdder(SoundAdder):
    def add(self, *given):
        table = super().add(*given)
        moved = np.where(table.pixels > 1, table.voxel, 0)
        order = np.lexsort((table.operator, moved, table.panel))
        return replace(table, voxel=moved).select(order)


@broken("accumulator", "is not additive")
@dataclass(frozen=True)
class NotAdditive(SoundAccumulator):
    """Puts voxels of a single pixel elsewhere, so that parts do not add up to the whole."""

    def adder(self, grid):
        return ThresholdAdder(grid)


class MutatingAdder(SoundAdder):
    def add(self, number, image, frame, mask, background, pixels, geometry):
        for panel in mask.panels:
            panel[0, 0] = 1 - min(panel[0, 0], 1)
        return super().add(number, image, frame, mask, background, pixels, geometry)


@broken("accumulator", r"add changes what it is given: \['mask'\].panels\[0\]")
@dataclass(frozen=True)
class Scribbles(SoundAccumulator):
    """Marks the pixels that it has counted, in the mask it was lent."""

    def adder(self, grid):
        return MutatingAdder(grid)


# --- scalers ---------------------------------------------------------------------------------------------


@broken("scaler", "the scales change with the unit of exposure")
@dataclass(frozen=True)
class UnitDependent(SoundScaler):
    """Adds one second to every exposure, for the shutter."""

    def rates(self, sums):
        photons, exposure = self.totals(sums)
        return np.maximum(photons, 1) / (exposure + 10.0)


@broken("scaler", "the scales have mean")
@dataclass(frozen=True)
class FirstIsOne(SoundScaler):
    """Gives the first image the scale 1."""

    def scales(self, rates):
        return ImageScales(rates / rates[0], 0.1 * rates / rates[0])


@broken("scaler", "the scales change with the order of images")
@dataclass(frozen=True)
class FirstWins(SoundScaler):
    """Trusts the first image twice as much."""

    def rates(self, sums):
        rates = super().rates(sums)
        rates[0] *= 2
        return rates


@broken("scaler", "drives images apart.*is the factor upside down")
@dataclass(frozen=True)
class UpsideDown(SoundScaler):
    """Returns what to multiply intensities by."""

    def scales(self, rates):
        return super().scales(1 / rates)


@broken("scaler", "per_image_sigma is NaN or infinite")
@dataclass(frozen=True)
class NoSigma(SoundScaler):
    """Has no idea of its own uncertainty."""

    def scales(self, rates):
        return ImageScales(rates / rates.mean(), np.full(len(rates), np.nan))


@dataclass(frozen=True, eq=False)
class VoxelScales(ImageScales):
    """Scales with a factor for each voxel, which `to_plain` of images alone knows nothing of."""

    def factor(self, table):
        return super().factor(table) * (1 + 0.5 * (table.voxel % 3))


@broken("scaler", "factor is another one after to_plain and scales_from_plain")
@dataclass(frozen=True)
class ForgetsItsModel(SoundScaler):
    """Fits a factor for each voxel and writes down one for each image."""

    def scales(self, rates):
        scales = rates / rates.mean()
        return VoxelScales(scales, 0.1 * scales)


class Callback(ImageScales):
    """Scales that describe themselves with a function."""

    def to_plain(self):
        return super().to_plain() | {"weight": len}


@broken("scaler", r"its scales can't be kept: to_plain\['weight'\] is a builtin")
@dataclass(frozen=True)
class KeepsAFunction(SoundScaler):
    """Wants to write a function into its file."""

    def scales(self, rates):
        scales = rates / rates.mean()
        return Callback(scales, 0.1 * scales)


@broken("scaler", "statistics can't be written to JSON")
@dataclass(frozen=True)
class ArrayStatistics(SoundScaler):
    """Puts an array into its statistics."""

    def scales(self, rates):
        return ImageScales(rates / rates.mean(), 0 * rates, {"rates": rates})


# --- mergers ---------------------------------------------------------------------------------------------


@broken("merger", "counts of the map add up to .* some are lost")
@dataclass(frozen=True)
class LosesCounts(SoundMerger):
    """Rejects the brightest observation of the data set as an outlier."""

    def merge(self, sums, scales):
        merged = poisson_merge(sums, scales)
        counts = merged.counts.copy()
        counts[np.argmax(counts)] = 0
        return replace(merged, counts=counts)


@broken("merger", "voxels that have exposure; a voxel without photons is a measurement too")
@dataclass(frozen=True)
class DropsEmptyVoxels(SoundMerger):
    """Leaves out voxels without photons."""

    def merge(self, sums, scales):
        merged = poisson_merge(sums, scales)
        kept = merged.counts > 0
        columns = {name: values[kept] for name, values in vars(merged).items() if np.shape(values) == kept.shape}
        return replace(merged, **columns)


@broken("merger", "variance is zero or negative; no count at all does not mean no error|not by the square root of 2")
@dataclass(frozen=True)
class VarianceIsCounts(SoundMerger):
    """Takes the variance of a count for the count."""

    def merge(self, sums, scales):
        merged = poisson_merge(sums, scales)
        return replace(merged, variance=merged.counts * merged.variance)


@broken("merger", "not by the square root of 2")
@dataclass(frozen=True)
class ErrorsNeverFall(SoundMerger):
    """Quotes the error of a single observation."""

    def merge(self, sums, scales):
        merged = poisson_merge(sums, scales)
        return replace(merged, variance=merged.variance * merged.multiplicity)


@broken("merger", "are the scales used, and the right way up")
@dataclass(frozen=True)
class IgnoresScales(SoundMerger):
    """Merges as if all images were alike."""

    def merge(self, sums, scales):
        return poisson_merge(sums, replace(scales, per_image=np.ones(len(scales.per_image))))


@broken("merger", r"merge changes what it is given: sums.pieces\[0\].exposure")
@dataclass(frozen=True)
class ScalesInPlace(SoundMerger):
    """Divides the sums that it was lent by their scales."""

    def merge(self, sums, scales):
        merged = poisson_merge(sums, scales)
        for table in sums.tables():
            table.exposure[...] *= 2
        return merged


@broken("merger", "the map changes with the unit of exposure")
@dataclass(frozen=True)
class FixedFloor(SoundMerger):
    """Adds a fixed error, in units of its own data."""

    def merge(self, sums, scales):
        merged = poisson_merge(sums, scales)
        return replace(merged, variance=merged.variance + 1.0 * (1 + 1 / np.median(merged.variance)))


# --- absolute scalers ------------------------------------------------------------------------------------


@broken("absolute_scaler", r"variance is not scale\^2 times")
@dataclass(frozen=True)
class ForgetsTheSquare(SoundAbsoluteScaler):
    """Multiplies variances by the scale, once."""

    def scale(self, merged, scales, experiment):
        return replace(self.times(merged, 3.0), variance=3.0 * merged.variance)


@broken("absolute_scaler", "scale is -1.0; it is a positive number")
@dataclass(frozen=True)
class TurnsTheSign(SoundAbsoluteScaler):
    """Turns peaks into holes."""

    def scale(self, merged, scales, experiment):
        return self.times(merged, -1.0)


@broken("absolute_scaler", "units is empty")
@dataclass(frozen=True)
class NoUnits(SoundAbsoluteScaler):
    """Does not say in what units its map is."""

    def scale(self, merged, scales, experiment):
        return replace(self.times(merged, 1.0), units="")


@broken("absolute_scaler", "intensity is NaN or infinite")
@dataclass(frozen=True)
class RootOfNegative(SoundAbsoluteScaler):
    """Hides negative intensities."""

    def scale(self, merged, scales, experiment):
        final = self.times(merged, 1.0)
        return replace(final, intensity=np.where(np.arange(len(merged)) == 0, np.nan, final.intensity))


@broken("absolute_scaler", "gets a scale .* times as large")
@dataclass(frozen=True)
class HalfWay(SoundAbsoluteScaler):
    """Scales with the root of the mean intensity."""

    def scale(self, merged, scales, experiment):
        return self.times(merged, float(np.mean(merged.intensity**2)) ** -0.25)
