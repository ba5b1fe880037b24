"""Studies: grids of runs, their results as a table, and a plot."""
