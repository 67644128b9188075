"""libmelee's data files, read where pip has put them: they are not copied (LGPL), and `import melee` takes a second."""

import csv
import functools
import importlib.util
from pathlib import Path

import numpy as np


@functools.lru_cache(maxsize=1)
def libmelee_folder() -> Path:
    """Where libmelee lies, with its framedata.csv and actiondata.csv. Raises ImportError if it is not installed."""
    spec = importlib.util.find_spec("melee")                                # finds the package without importing it
    if spec is None:
        raise ImportError("libmelee is not installed: pip install -r requirements.txt")
    return Path(spec.submodule_search_locations[0])


@functools.lru_cache(maxsize=1)
def zero_indexed_actions() -> np.ndarray:
    """[32, 1024] bool, read-only: does Melee count this (internal character, action) from frame 0?"""
    table = np.zeros((32, 1024), bool)
    with open(libmelee_folder() / "actiondata.csv", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["action"]) < 1024:                                   # 65535 stands for "unknown"
                table[int(row["character"]), int(row["action"])] = row["zeroindex"] == "True"
    table.setflags(write=False)                                             # one array for all callers
    return table
