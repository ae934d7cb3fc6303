"""Sweeps: runs over a grid or an Optuna search, each trained in a separate process, and the comparison of runs.

`grid.py` reads the values of `--set` and `--seeds` and names the points; `folder.py` holds `sweep.json` and the lock;
`process.py` starts and stops the training processes; `grid_search.py` and `optuna_search.py` decide what is trained;
`records.py` reads what a run folder holds, and `comparison.py` makes a table of runs. It imports `training` and lower packages.
"""
