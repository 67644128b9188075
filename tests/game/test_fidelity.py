"""The fidelity tool really scores the embedded game: a game that it played itself must come out (nearly) perfect."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.game import BOTS
from cleanmelee.recording import write_slp
from melee_common import VecEnv

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def test_a_game_of_its_own_scores_a_hundred(tmp_path):
    pair = [[CHARACTERS["fox"], CHARACTERS["marth"]]]
    with VecEnv(1, pair, STAGES["final_destination"], seed=1, max_episode_frames=0, bot_kinds=BOTS["attacker"]) as envs:
        frames, controllers = [envs.frames.tobytes()], [envs.controllers.tobytes()]
        for _ in range(3000):
            if (envs.step(envs.controllers.copy())[0]).any():
                break
            frames.append(envs.frames.tobytes())
            controllers.append(envs.controllers.tobytes())
    write_slp(tmp_path / "game.slp", np.frombuffer(b"".join(frames), envs.frames.dtype),
              np.frombuffer(b"".join(controllers), envs.controllers.dtype).reshape(-1, 2))
    out = subprocess.run([sys.executable, TOOLS / "fidelity.py", "--sim", TOOLS / "fidelity_adapter.py", "--no-free",
                          tmp_path / "game.slp"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in out.splitlines() if line.startswith("ALL but hit events"))
    *_, xy, action, at_change = map(float, line.split()[-3:])
    assert xy > 99 and action > 99 and at_change > 97, out
    assert " 0 true hits" not in out and "no hits" not in out
