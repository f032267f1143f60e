"""What is done with finished maps: brought to one grid and scale, compared, rebinned, subtracted."""
