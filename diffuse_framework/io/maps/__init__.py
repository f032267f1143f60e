"""Maps of this program and of others, read as voxels with intensities."""
