"""Replays as training data: what a player saw, and what it did next."""

from dataclasses import dataclass

import numpy as np
import torch

from cleanmelee.cli import UserError, lookup
from cleanmelee.events import ReplayError
from cleanmelee.frame import FIGHTERS, FIRST_CONTROL_FRAME, NUM_PLAYERS, same_fighter
from cleanmelee.replays import Replay, load_replays
from cleanmelee.rewards import RewardArgs, compute_rewards
from melee_common import ACTION_SIZE, NUM_FLOATS, NUM_INTS, Observation, encode_controllers, mirrored, observe


def subjects(replays: list[Replay], character: int | None = None, player_port: int | None = None) -> list[tuple]:
    """Whose inputs to learn from: a list of (replay index, player index); both players by default.

    character: internal id, as played at the start (Zelda and Sheik are one). player_port: 1..4, as on the console.
    """
    chosen = [
        (index, player)
        for index, replay in enumerate(replays) for player in range(NUM_PLAYERS)
        if (character is None or same_fighter(replay.meta["characters"][player], character))
        and (player_port is None or replay.meta["ports"][player] == player_port - 1)
    ]
    if not chosen:
        raise ReplayError(f"no player with character={character}, player_port={player_port} in {len(replays)} replays")
    return chosen


def split_by_game(replays: list[Replay], fraction: float = 0.1) -> tuple[list[int], list[int]]:
    """(indices to train on, indices held out). By the game's hash, so a game never changes sides when files are added.

    With two games or more both lists hold at least one; that game, chosen for want of another, may change sides later.
    """
    draw = [int(replay.meta["game"][:8], 16) / 2**32 for replay in replays]
    held_out = {value for value in draw if value < fraction}
    if len(set(draw)) >= 2:
        held_out = held_out or {min(draw)}
        if len(held_out) == len(set(draw)):
            held_out.remove(max(draw))
    return ([i for i, value in enumerate(draw) if value not in held_out],
            [i for i, value in enumerate(draw) if value in held_out])


@dataclass
class Sequences:
    """Games from the side of the players to learn from, laid end to end. N rows, one for each frame that was seen."""
    obs: Observation        # [N, ..] what the player saw: frames[t], and the controller that made it
    actions: torch.Tensor   # [N, 13] int8, what the player did next: controllers[t + 1]
    weights: torch.Tensor   # [N] 1 where the player had control then and nothing of either frame is missing from the
    #                         file, else 0: such rows are seen but not learned
    changed: torch.Tensor   # [N] bool: the action is not the one held until then
    returns: torch.Tensor   # [N] discounted reward that followed
    starts: np.ndarray      # [S + 1] sequence s is rows starts[s] to starts[s + 1]

    def take(self, rows: torch.Tensor) -> tuple[Observation, torch.Tensor]:
        """rows [..] -> observations [.., F] and actions [.., 13]"""
        return Observation(self.obs.floats[rows], self.obs.ints[rows]), self.actions[rows]


def pack(replays: list[Replay], players: list[tuple[int, int]], gamma: float = .99) -> Sequences:
    """players: (replay index, player index) pairs, sorted. Rewards as in self-play: a stock 1, a percent of damage
    .01."""
    starts = np.cumsum([0] + [len(replays[i]) - 1 for i, _ in players])     # the last frame has no next controller
    n = int(starts[-1])
    data = Sequences(Observation(torch.empty(n, NUM_FLOATS), torch.empty(n, NUM_INTS, dtype=torch.int16)),
                     torch.empty(n, ACTION_SIZE, dtype=torch.int8), torch.empty(n), torch.empty(n, dtype=torch.bool),
                     torch.empty(n), starts)
    for k, (index, player) in enumerate(players):
        frames = replays[index].frames
        controllers = replays[index].controllers
        if k == 0 or index != players[k - 1][0]:                            # once for both players of a game
            obs = observe(frames[:-1], controllers[:-1])                    # [T - 1, 2, ..]
            mirror = mirrored(frames[:-1])                                  # of what was seen, whenever the reply acts
            held = encode_controllers(controllers[:-1], mirror)             # [T - 1, 2, 13]
            actions = encode_controllers(controllers[1:], mirror)
            returns = discount(compute_rewards(frames[:-1], frames[1:], RewardArgs()), gamma)
            learned = (frames["frame_id"][1:] >= FIRST_CONTROL_FRAME).astype(np.float32)
            for t in replays[index].meta["incomplete"]:                     # not what was seen then, nor what was done
                learned[max(t - 1, 0):t + 1] = 0
        rows = slice(starts[k], starts[k + 1])
        data.obs.floats[rows] = torch.from_numpy(obs.floats[:, player])
        data.obs.ints[rows] = torch.from_numpy(obs.ints[:, player])
        data.actions[rows] = torch.from_numpy(actions[:, player])           # saw frames[t], chose controllers[t + 1]
        data.weights[rows] = torch.from_numpy(learned)
        data.changed[rows] = torch.from_numpy((actions[:, player] != held[:, player]).any(-1))
        data.returns[rows] = torch.from_numpy(returns[:, player])
    return data


def discount(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """rewards [T, ..] -> sum over k of gamma^k rewards[t + k], in log2(T) steps: each doubles the horizon."""
    returns = rewards.copy()
    shift = 1
    while shift < len(returns):
        returns[:-shift] += gamma ** shift * returns[shift:].copy()
        shift *= 2
    return returns


def walk(starts: np.ndarray, stride: int = 1, lanes: int = 32, size: int = 256):
    """Every row of every sequence once, in the order of play, for policies that remember. Yields rows [T, B], real [T,
    B] (False: a stand-in after the end of a shorter game) and whether the games begin here. stride 3: as a policy sees
    a game that acts on every third frame, from each of its first three frames on."""
    begins = (starts[:-1, None] + np.arange(stride)).ravel()
    lengths = -(-(np.repeat(starts[1:], stride) - begins) // stride)
    by_length = np.argsort(lengths, kind="stable")
    for group in np.array_split(by_length, -(-len(by_length) // lanes)):
        longest = int(lengths[group].max())
        for t in range(0, longest, size):
            at = np.arange(t, min(t + size, longest))[:, None]                              # [T, 1]
            rows = begins[group] + stride * np.minimum(at, lengths[group] - 1)              # [T, B]
            yield torch.from_numpy(rows), torch.from_numpy(at < lengths[group]), t == 0


def load_sequences(folder: str, *, character: str = "", player_port: int = 0, cpu_players: bool = False,
                   min_active: float = 0., held_out: float = .1, max_files: int = 0, num_workers: int = -1,
                   min_frames: int = 60, gamma: float = .99) -> tuple[Sequences, Sequences, dict]:
    """A folder of replays -> training games, held-out games, and what was read, skipped and left out."""
    if not folder:
        raise UserError("--replays is empty: give a folder of .slp files")
    number = lookup(FIGHTERS, character, "character") if character else None
    replays, about = load_replays(folder, num_workers=None if num_workers < 0 else num_workers,
                                  max_files=max_files or None, character=number, min_frames=min_frames)
    chosen = []
    idle = 0
    cpus = 0
    for i, player in subjects(replays, number, player_port or None):
        actions = encode_controllers(replays[i].controllers[:, player])
        if replays[i].meta["types"][player] != "Human" and not cpu_players:
            cpus += 1
        elif (actions[1:] != actions[:-1]).any(-1).mean() < min_active:
            idle += 1
        else:
            chosen.append((i, player))
    used = sorted({i for i, _ in chosen})
    sides = split_by_game([replays[i] for i in used], held_out) if used else ([], [])
    if not all(sides):
        raise UserError(f"{folder}: {len(used)} games with a player to learn from, {idle} idle and {cpus} CPU players "
                        "left out; at least two games are needed, one of them held out")
    train, test = [[pair for pair in chosen if pair[0] in {used[k] for k in side}] for side in sides]
    about |= {"train_games": len(sides[0]), "train_players": len(train), "held_out_games": len(sides[1]),
              "held_out_players": len(test), "idle_players": idle, "cpu_players": cpus}
    return pack(replays, train, gamma), pack(replays, test, gamma), about
