"""Studies: files of runs that differ in one choice each, the runs, and their tables."""
