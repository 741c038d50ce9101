"""Templates for the files of a small working effect."""
