"""Models of dxtbx and cctbx as numbers."""
