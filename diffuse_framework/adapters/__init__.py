"""The only home of dxtbx, dials and cctbx objects; numbers and arrays come out."""
