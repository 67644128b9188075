import os
import sys
from pathlib import Path

# One torch thread, here and in every process that a test starts: the last bit of a sum depends on their number.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
