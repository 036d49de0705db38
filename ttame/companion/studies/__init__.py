"""Studies: training runs that differ in one choice each, their records and their tables."""
