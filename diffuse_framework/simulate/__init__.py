"""Images of a crystal whose continuous diffuse intensity is known.

Entry points, from the whole to its parts:

- `experiment.simulate(SimulationSettings(...))`: images in memory (`images.SimulatedSource`), the
  `model.Experiment` an indexer ought to find, and the truth. No DIALS.
- `detector`: `pilatus` (modules and gaps on one panel), `one_panel` (no gaps), `with_beamstop`.
- `images.ModuleSource(source)`: the same images, one panel per module; 24 panels for a PILATUS 2M.
- `images.SimulatedSource.diffuse_only()`: the same images without noise, Bragg peaks and background.
- `truth.load(path)` and `Truth.save(path)`: scales, orientations and the intensity, from and to
  ``truth.h5``; `Truth.intensity.diffuse(hkl)` is the true intensity.
- `compare.compare_map` and `compare.compare_scales`: how far a result is from the truth.
- `cbf.write_cbf`: one image as a mini-CBF file that DIALS reads.

`diffuse.simulate` does all of it from the command line.
"""
