"""Damaged and absurd input, at random from fixed seeds: it may end in three ways only.

    .venv/bin/python tests/fuzz/fuzz.py --cases 10000      (make fuzz)

RIGHT: the values are those that were written. REJECTED: an image was left out by name. REFUSED: one line, as a
`DiffuseError`. Anything else - another exception, other pixels, an interpreter that ends, no answer within half a
minute of its own - is a fault; the seed makes it again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from iotbx.phil import parse
from libtbx import Auto

from diffuse_framework import api
from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.command_line import process, simulate, stats
from diffuse_framework.command_line.report import write_report
from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.command_line.shared.run_inputs import open_images
from diffuse_framework.command_line.show import describe
from diffuse_framework.config.scope import build_scope
from diffuse_framework.config.selection import select_named, select_steps
from diffuse_framework.errors import DiffuseError, UnreadableImage
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io import filenames
from diffuse_framework.io.inputs import MAP_ARRAYS, read_background, read_map, read_pixels
from diffuse_framework.pipeline.chunk import pixel_table

RIGHT, REJECTED, REFUSED = "right", "rejected", "refused"
_PATIENCE_S = 30
_VALUES = (
    "Auto None True 0 -1 1 1e-300 1e300 -1e300 nan inf -inf 1,2,3 0,0,0 1,0,0 -1,-1 x '' ../../x "
    "/dev/null /proc/self/mem { } ; # = $x \\ 1e5 2**0.5 9**9**9 999999999999999999999 __import__('os') P1 "
    "P212121 1,1,1,90,90,90 0,0,0,0,0,0 é"
).split(" ")
_VECTORS = (
    "1,0,0 0,1,0 0,0,-1 0,0,0 nan,0,0 inf,0,0 1e20,0,0 -1e300,1,1 1e-300,0,0 -100 100 100,100 0,100 -1,-1 5,5 1e9,1e9 "
    "487,619 1000000,1000000 1,2,3,4,5,6,7,8,9 1,0,0,0,1,0,0,0,1 -5,5"
).split(" ")
# Where results go, what shows no images, and what needs other machines.
_ELSEWHERE = ("output.directory", "mp.", "live", "watch.", "input.")


class Inputs:
    """Files that are right, in a folder; each case damages a copy of one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sim = folder / "sim"
        small = ["detector.model=300K", "images=2", "crystal.unit_cell=20,22,24,90,90,90", "seed=7", "mp.nproc=1"]
        with redirect_stdout(io.StringIO()):
            simulate.run([*small, "crystal.space_group=P212121", "counts_per_pixel=2", f"output.directory={sim}"])
            known = [str(sim / "truth.expt"), str(sim / "truth.refl"), "mp.nproc=1", "output.pixels=True"]
            process.execute([*known, f"output.directory={folder / 'out'}"])
            stats.run([str(folder / "out" / filenames.SUMS)])
        estimates = {"krogh_moe": {"k": 2.0, "q": [0.1, 0.2], "k_of_q": [2.0, None]}}
        profile = {"q": [0.1], "total_relative": [1.0], "sum_f0_squared": [2.0], "incoherent": [0.1]}
        content = {"method": "krogh_moe", "estimates": estimates, "profile": profile}
        (folder / "out" / filenames.ABSOLUTE_SCALE).write_text(json.dumps(content))
        self.images = sorted(sim.glob("sim_*.cbf"))
        self.counts = {path.name: api.open_images(path).read(0).counts[0] for path in self.images}
        self.registry = load_registry()
        self.kinds = {item.path: item.object.type for item in process._parser(self.registry).phil.all_definitions()}
        self.parameters = sorted(self.kinds)
        self.plugins = [item for item in self.registry.plugins.values() if parse(item.factory.phil).objects]
        with np.load(folder / "out" / "voxel_data_relative.npz") as arrays, h5py.File(folder / "map.h5", "w") as file:
            for name in MAP_ARRAYS:
                file.create_dataset(name, data=arrays[name], chunks=True, fletcher32=True)
        np.save(folder / "background.npy", np.ones((30, 40)))


def damaged(data: bytes, rng: random.Random, low: int = 0, high: int | None = None) -> bytes:
    """Return bytes with some turned, lost, added or repeated between two places, or cut short."""
    content = bytearray(data)
    high = min(high or len(content), len(content))
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        place = rng.randrange(low, max(high, low + 1))
        kind = rng.randrange(6)
        if kind == 0:
            content[place : place + 1] = bytes([content[place] ^ (1 << rng.randrange(8))]) if content[place:] else b""
        elif kind == 1:
            content[place : place + rng.randrange(1, 30)] = b""
        elif kind == 2:
            content[place:place] = rng.randbytes(rng.randrange(1, 30))
        elif kind == 3:
            content[place : place + 8] = rng.choice(
                (b"-1", b"0", b"nan", b"1e999", b"\xff\xfe", b"\n", b"9" * 30, b"{")
            )
        elif kind == 4:
            content[place:place] = content[place : place + rng.randrange(1, 200)]
        elif rng.random() < 0.3:
            del content[place:]
    return bytes(content)


def _image(inputs: Inputs, content: bytes) -> str:
    path = inputs.folder / "case" / inputs.images[1].name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    source = api.open_images([inputs.images[0], path])
    if source.left_out:
        return REJECTED
    try:
        frames = [source.read(number) for number in range(len(source))]
    except UnreadableImage:
        return REJECTED
    if not all(np.array_equal(frame.counts[0], inputs.counts[frame.name]) for frame in frames):
        raise AssertionError("other pixels were read")
    return RIGHT


def cbf_pixels(inputs: Inputs, rng: random.Random) -> str:
    """A CBF file whose pixels are damaged."""
    data = inputs.images[1].read_bytes()
    return _image(inputs, damaged(data, rng, data.find(b"\x0c\x1a\x04\xd5") + 4))


def _damaged_header(inputs: Inputs, rng: random.Random) -> bytes:
    data = inputs.images[1].read_bytes()
    return damaged(data, rng, 0, data.find(b"--CIF-BINARY-FORMAT-SECTION--"))


def cbf_header(inputs: Inputs, rng: random.Random) -> str:
    """A CBF file whose header is damaged, that of the pixels left alone: checksum and size are in it."""
    return _image(inputs, _damaged_header(inputs, rng))


def cbf_header_alone(inputs: Inputs, rng: random.Random) -> str:
    """The same, of the only image there is."""
    path = inputs.folder / "alone_00002.cbf"
    path.write_bytes(_damaged_header(inputs, rng))
    source = api.open_images(path) if rng.random() < 0.5 else DxtbxSource(images_from_files([str(path)]))
    _finite_geometry(source)
    if not np.array_equal(source.read(0).counts[0], inputs.counts[inputs.images[1].name]):
        raise AssertionError("other pixels were read")
    return RIGHT


def _finite_geometry(source: Any) -> None:
    """Fail where a geometry was let pass that no pixel can have."""
    for number in range(len(source)):
        geometry = source.geometry(number)
        if geometry.n_pixels < 1_000_000 and not all(np.isfinite(q).all() for q in pixel_table(geometry, ()).q):
            raise AssertionError("scattering vectors that are no numbers")


def parameters(inputs: Inputs, rng: random.Random) -> str:
    """One to three parameters with values at random."""
    names = rng.sample(inputs.parameters, rng.choice((1, 1, 2, 3)))
    args = [f"{name}={rng.choice(_VALUES)}" for name in names if "phil" not in name]
    params, _ = parse_arguments(process._parser(inputs.registry), args)
    select_steps(inputs.registry, params, "dials_ssx")
    return RIGHT


def _plausible(kind: Any, rng: random.Random) -> str:
    """Return a value that a parameter of a type may have, more often than not."""
    numbers = (0, 1, 2, 3, 7, 40, 1000, 0.5, 0.1, 1e-3, 1e-9, 1e5, -1)
    name, size = str(getattr(kind, "phil_type", "")), getattr(kind, "size_max", None) or 3
    match name:
        case _ if rng.random() < 0.15:
            return rng.choice((*_VALUES, *_VECTORS))
        case "bool":
            return rng.choice(("True", "False"))
        case "int":
            return str(int(rng.choice(numbers)))
        case "float":
            return str(rng.choice(numbers))
        case "ints" | "floats":
            return ",".join(str((int if name == "ints" else float)(rng.choice(numbers))) for _ in range(size))
    return rng.choice(("Auto", "None", "unit", "flat", "smooth", "per_image", "poisson", "trusted", "hkl", "P222"))


def whole_runs(inputs: Inputs, rng: random.Random) -> str:
    """A run on images with one to three parameters that have values at random; what passes as right ends in a map."""
    names = rng.sample([name for name in inputs.parameters if not name.startswith(_ELSEWHERE)], rng.choice((1, 2, 3)))
    args = [f"{name}={_plausible(inputs.kinds[name], rng)}" for name in names]
    sim, out = inputs.images[0].parent, inputs.folder / "run"
    known = [str(sim / "truth.expt"), str(sim / "truth.refl"), "mp.nproc=1", f"output.directory={out}"]
    shutil.rmtree(out, ignore_errors=True)
    finished = process.execute([*known, *args])
    if finished is not None and not np.isfinite(finished.outcome.map.intensity).all():
        raise AssertionError(f"a map that holds no numbers: {args}")
    return RIGHT


def geometry(inputs: Inputs, rng: random.Random) -> str:
    """One or two parameters of the geometry with values at random, applied to an image."""
    names = rng.sample([n for n in inputs.parameters if n.startswith(("geometry.", "detector."))], rng.choice((1, 2)))
    args = [f"{name}={rng.choice((*_VALUES, *_VECTORS))}" for name in names]
    params, _, _ = process._parsed([str(inputs.images[0]), *args], inputs.registry)
    source = open_images(params)
    _finite_geometry(source)
    return RIGHT if np.array_equal(source.read(0).counts[0], inputs.counts[inputs.images[0].name]) else "other pixels"


def from_python(inputs: Inputs, rng: random.Random) -> str:
    """A parameter of a plugin through the API: as text, or set in Python to a value of any type."""
    plugin = rng.choice(inputs.plugins)
    scope = f"{plugin.stage}.{plugin.name}"
    names = [item.path for item in parse(plugin.factory.phil, process_includes=True).all_definitions()]
    name = rng.choice(names)
    if rng.random() < 0.5:
        several = "s" if plugin.stage in ("validator", "masker", "corrector") else ""
        api.make_steps(f"{plugin.stage}.plugin{several} = {plugin.name}\n{scope}.{name} = {rng.choice(_VALUES)}\n")
        return RIGHT
    params = build_scope(inputs.registry, core="").extract()
    *way, last = f"{scope}.{name}".split(".")
    place = params
    for step in way:
        place = getattr(place, step)
        place = place[0] if isinstance(place, list) else place
    setattr(place, last, rng.choice((Auto, None, True, -1, 0, 1e300, float("inf"), float("nan"), "x", [], {}, [-1.0])))
    select_named(inputs.registry, params, plugin.stage, plugin.name)
    return RIGHT


def experiments(inputs: Inputs, rng: random.Random) -> str:
    """An .expt file with a value of another type, or with damaged text."""
    text = (inputs.images[0].parent / "truth.expt").read_text()
    if rng.random() < 0.7:
        text = json.dumps(_changed(json.loads(text), rng))
    path = inputs.folder / "case.expt"
    path.write_bytes(damaged(text.encode(), rng) if rng.random() < 0.4 else text.encode())
    if rng.random() < 0.5:
        source = api.open_images(path)
    else:
        source = open_images(process._parsed([str(path)], inputs.registry)[0])
    _finite_geometry(source)
    return RIGHT


def parameter_file(inputs: Inputs, rng: random.Random) -> str:
    """A parameter file with a mistake."""
    text = "grid {\n  hkl {\n    d_min = 2\n  }\n}\nmasker.plugins = trusted bragg # two\nmp.nproc = 1\n"
    path = inputs.folder / "case.phil"
    path.write_bytes(damaged(text.encode(), rng))
    parse_arguments(process._parser(inputs.registry), [str(path)])
    return RIGHT


def _changed(value: Any, rng: random.Random) -> Any:
    """Return JSON content with one thing in it of another type, or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        number = rng.randrange(len(value))
        return [*value[:number], _changed(value[number], rng), *value[number + 1 :]]
    return rng.choice((None, True, -1, 0, 1e308, 10**30, "", "x", [], {}, [[]], {"a": 1}, "9" * 400))


def json_files(inputs: Inputs, rng: random.Random) -> str:
    """A grid or scales with a value of another type, or with damaged text."""
    name = rng.choice((filenames.GRID, filenames.SCALES))
    text = (inputs.folder / "out" / name).read_text()
    if rng.random() < 0.5:
        text = json.dumps(_changed(json.loads(text), rng))
    path = inputs.folder / name
    path.write_bytes(damaged(text.encode(), rng) if rng.random() < 0.3 else text.encode())
    describe(path)
    return RIGHT


def run_files(inputs: Inputs, rng: random.Random) -> str:
    """What a run says of itself, with a value of another type or damaged text: shown, and made a page of."""
    folder = inputs.folder / "shown"
    folder.mkdir(exist_ok=True)
    name = rng.choice((filenames.SUMMARY, filenames.SUMMARY, filenames.STATISTICS, filenames.ABSOLUTE_SCALE))
    known = (filenames.GRID, filenames.SCALES, filenames.RELATIVE_MAP, filenames.SUMMARY)
    for file in (*known, filenames.STATISTICS, filenames.ABSOLUTE_SCALE):
        (folder / file).write_bytes((inputs.folder / "out" / file).read_bytes())
    text = json.dumps(_changed(json.loads((folder / name).read_text()), rng))
    (folder / name).write_bytes(damaged(text.encode(), rng) if rng.random() < 0.2 else text.encode())
    if rng.random() < 0.3:
        describe(folder / name)
    write_report(folder, folder / "report.html", with_image=False)
    return RIGHT


def arrays(inputs: Inputs, rng: random.Random) -> str:
    """A map as NPZ or HDF5 with checksums, pixels, or a background, damaged."""
    pixels = next((inputs.folder / "out" / "images").glob("*.npz"))
    source, read = rng.choice(
        (
            (inputs.folder / "out" / "voxel_data_relative.npz", read_map),
            (inputs.folder / "map.h5", read_map),
            (pixels, read_pixels),
            (inputs.folder / "background.npy", read_background),
        )
    )
    path = inputs.folder / f"case{source.suffix}"
    path.write_bytes(damaged(source.read_bytes(), rng))
    read(path)
    return RIGHT


KINDS: dict[str, Callable[[Inputs, random.Random], str]] = {
    function.__name__: function
    for function in (
        cbf_pixels,
        cbf_header,
        cbf_header_alone,
        parameters,
        whole_runs,
        geometry,
        from_python,
        parameter_file,
        experiments,
        json_files,
        run_files,
        arrays,
    )
}


def outcome(inputs: Inputs, kind: str, seed: int) -> str:
    """Return how one case ends; in a process of its own, for HDF5 and C++ can end an interpreter."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        # Of its own work: other programs make a machine slow. What waits for ever ends too.
        resource.setrlimit(resource.RLIMIT_CPU, (_PATIENCE_S, _PATIENCE_S))
        signal.alarm(20 * _PATIENCE_S)
        said = ""
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                said = KINDS[kind](inputs, random.Random(f"{kind} {seed}"))
        except DiffuseError as error:
            said = REFUSED if str(error) and "\n" not in str(error) else f"not one line: {error}"
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said.encode(errors="replace")[-6000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return said if os.WIFEXITED(status) and said else f"ended by signal {os.WTERMSIG(status)}"


def main() -> None:
    """Try cases of all kinds in turn; print how they ended, and exit with 1 where one was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    options = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(Path(folder))
        for number in range(options.cases):
            kind = list(KINDS)[number % len(KINDS)]
            seed = options.first + number // len(KINDS)
            found = outcome(inputs, kind, seed)
            if found not in (RIGHT, REJECTED, REFUSED):
                faults += 1
                print(f"--- {kind}, seed {seed}: {found}", flush=True)
                found = "FAULT"
            counts[kind, found] += 1
    for (kind, found), n in sorted(counts.items()):
        print(f"{kind:16} {found:10} {n}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
