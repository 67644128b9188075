"""How near the embedded game is to people's games: tests/tools/fidelity.py on a folder of replays, cross-validated.

    python tests/bench/bench_fidelity.py --replays DIR

From the true state of a real game and the true inputs, is its next frame right? Position within .1 units and action, of
all players; action of those whose action changes; animation frame, within half a one, of those whose action is right;
left alone with the inputs for a second, moving players still within one unit; blows that were found within a frame, and
those seen that are real.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee.cli import PATH, UserError, run_script  # noqa: E402 (after the path is set)
from results import ROOT, save

KINDS = {"cross_validated": "cross-validated", "in_sample": "in sample"}
STAGES = {"FD + Battlefield": "Final Destination and Battlefield", "all stages": "all stages"}


@dataclass
class Args:
    replays: Annotated[str, PATH]
    """folder of .slp files"""
    json: Annotated[str, PATH] = ""
    """file for the figures (off: empty)"""


def figures(kind: str, stages: str, found: dict) -> dict:
    """A row of the table out of one of fidelity.py's."""
    blows = found["hits"]["blows"]
    return {"games": f"{KINDS[kind]}: {found['games']} games, {STAGES[stages]}",
            **{name: found["ALL"][name] for name in ("position", "action", "changes", "animation")},
            "alone": found["free"].get("60 clean, moving", {}).get("within"), "found": blows["recall"],
            "real": blows["precision"]}


def main(args: Args) -> None:
    began = time.time()
    files = sorted(map(str, Path(args.replays).resolve().glob("*.slp")))
    if not files:
        raise UserError(f"--replays {args.replays}: no .slp files in it; give a folder of replays")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "fidelity.json"
        done = subprocess.run([sys.executable, "tests/tools/fidelity.py", "--sim", "tests/tools/fidelity_adapter.py",
                               "--cross-validate", "--json", str(result), *files], cwd=ROOT)
        if done.returncode:
            raise UserError(f"--replays {args.replays}: fidelity.py ended with {done.returncode}; see above")
        found = json.loads(result.read_text())
    rows = [figures(kind, stages, found[kind][stages]) for kind in KINDS for stages in STAGES]
    save(args.json, rows, began)


if __name__ == "__main__":
    run_script(main, Args)
