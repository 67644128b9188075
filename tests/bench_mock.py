"""Speed of the embedded game on one core, warm, combat on, both players attacking: a line per number of games.

    python tests/bench_mock.py        # exits 1 below 500,000 game-frames a second at 8 or 1024 games

The controllers are recorded first, from the attacker bot against itself, so that only the game is measured.
"""

import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import mock_melee as game

FLOOR, REPEATS, RECORDED = 500_000, 5, 1200


def start(num_games):
    frames, hidden = np.zeros(num_games, game.FRAME), np.zeros(num_games, game.HIDDEN)
    characters = np.array(list(game.CHARACTERS.values()))[np.arange(2 * num_games).reshape(num_games, 2) % 7]
    game.reset_games(frames, hidden, np.ones(num_games, bool), characters, np.full(num_games, 32),
                     np.arange(num_games, dtype=np.uint64))
    return frames, hidden


def record():
    """Controllers [RECORDED, 8, 2] of attackers against each other."""
    frames, hidden = start(8)
    bots, controllers = np.zeros((8, 2), game.BOT), np.zeros((8, 2), game.CONTROLLER)
    bots["kind"], bots["seed"] = game.BOTS["attacker"], np.arange(16).reshape(8, 2)
    tape = np.zeros((RECORDED, 8, 2), game.CONTROLLER)
    for index in range(RECORDED):
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        tape[index] = controllers
    return tape


def game_frames_per_second(num_games, tape):
    tape = np.ascontiguousarray(np.tile(tape, (1, -(-num_games // 8), 1))[:, :num_games])
    steps = min(RECORDED, max(100, 400_000 // num_games))
    speeds = []
    for _ in range(REPEATS):
        frames, hidden = start(num_games)
        begin = time.perf_counter()
        for index in range(steps):
            game.step_games(frames, hidden, tape[index])
        speeds.append(num_games * steps / (time.perf_counter() - begin))
    return float(np.median(speeds))


def main():
    game.warm_up()
    tape, slow = record(), False
    for num_games in (1, 8, 64, 1024):
        speed = game_frames_per_second(num_games, tape)
        slow |= num_games in (8, 1024) and speed < FLOOR
        print(f"{num_games:5d} games: {speed:12,.0f} game-frames/s")
    size = game.FRAME.itemsize + game.HIDDEN.itemsize
    print(f"{size} bytes of state per game ({game.FRAME.itemsize} shown, {game.HIDDEN.itemsize} hidden)")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
