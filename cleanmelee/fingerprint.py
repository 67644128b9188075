"""Style: what a player does in a game, in figures that people's games have too.

A win rate says nothing of how it was won: standing off, falling off, one move for ever. The same counts are taken of a
policy's games and of people's replays; fingerprint.csv holds what is usual among people, written by
tests/tools/fingerprints.py."""

import csv
from pathlib import Path

import numpy as np

from cleanmelee.game import TABLES

FRAMES_PER_MINUTE = 3600
GRABS, SHIELDS, LEDGE, LAST_REBIRTH = (212, 214), (178, 182), (252, 263), 13     # actions, first and last
FAR, NEAR = 40, 20                                      # units: an approach leads from beyond FAR to within NEAR
PAUSE = 60                                              # frames without a hit, after which the next one is an opening
LONGEST_DISTANCE, NUM_ATTACKS = 250, 128
USUAL = Path(__file__).with_suffix(".csv")


def _between(values: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (limits[0] <= values) & (values <= limits[1])


class Fingerprint:
    """Counts over N games that are watched step by step; every array is [N, 2], a game and a port."""

    def __init__(self, stages: np.ndarray):
        """stages [N] Slippi ids."""
        n = len(stages)
        self.edge = TABLES.stages["floor_right"][stages, 0][:, None]
        count = lambda *shape: np.zeros((n, 2, *shape), np.int64)
        self.frames, self.hits, self.openings, self.approaches, self.grabs = (count() for _ in range(5))
        self.self_destructs, self.off_stage, self.shielding, self.stunned = (count() for _ in range(4))
        self.damage, self.attacks, self.distances = np.zeros((n, 2)), count(NUM_ATTACKS), count(LONGEST_DISTANCE)
        self.struck, self.was_far = np.zeros((n, 2), bool), np.zeros((n, 2), bool)
        self.since_hit = np.full((n, 2), PAUSE)
        self.alive_for, self.hit_in_stock = count(), np.zeros((n, 2), bool)
        self.first_hits: list[tuple[int, int, int]] = []                    # game, port, frames into the foe's stock
        self.ko_percents: list[tuple[int, int, float]] = []                 # game, port of the one who took the stock

    def watch(self, before: np.ndarray, after: np.ndarray, games: np.ndarray) -> None:
        """FRAME [N] before and after a step (of a game that ended its last frame); games [N] bool: which to count."""
        g = np.flatnonzero(games)
        a, b, step = before["players"][g], after["players"][g], (after["frame_id"] - before["frame_id"])[g, None]
        hurt = np.maximum(b["percent"] - a["percent"], 0)
        gone, action = b["stocks"] < a["stocks"], b["action"]
        alive = action > LAST_REBIRTH
        self.frames[g] += step

        dealt = hurt[:, ::-1] * (b["last_hit_by"][:, ::-1] == b["port"])
        hit, opens = dealt > 0, self.since_hit[g] >= PAUSE
        self.hits[g] += hit
        self.damage[g] += dealt
        self.openings[g] += hit & opens
        self.since_hit[g] = np.where(hit, 0, self.since_hit[g] + step)
        for row, port in np.argwhere(hit):
            self.attacks[g[row], port, min(b["last_attack"][row, port], NUM_ATTACKS - 1)] += 1

        foes_life = self.alive_for[g][:, ::-1]
        first = hit & ~self.hit_in_stock[g]
        self.first_hits += [(int(g[row]), int(port), int(foes_life[row, port])) for row, port in np.argwhere(first)]
        lost_by_foe = gone[:, ::-1]
        self.hit_in_stock[g] = (self.hit_in_stock[g] | hit) & ~lost_by_foe
        self.alive_for[g] = np.where(gone | ~alive, 0, self.alive_for[g] + step)

        safe = alive & ((b["airborne"] == 0) | _between(action, LEDGE)) & (b["in_hitstun"] == 0)
        struck = (self.struck[g] & ~safe) | (b["in_hitstun"] != 0) | (hurt > 0)
        self.self_destructs[g] += gone & ~struck
        percents = a["percent"][:, ::-1]
        self.ko_percents += [(int(g[row]), int(port), float(percents[row, port]))
                             for row, port in np.argwhere((gone & struck)[:, ::-1])]
        self.struck[g] = struck & ~gone

        x, y = b["x"], b["y"]
        distance = np.hypot(x[:, :1] - x[:, 1:], y[:, :1] - y[:, 1:]).repeat(2, 1)
        both = alive.all(1, keepdims=True).repeat(2, 1)
        moves_in = np.abs(b["x"] - a["x"][:, ::-1]) < np.abs(a["x"] - a["x"][:, ::-1])
        self.approaches[g] += both & self.was_far[g] & (distance < NEAR) & moves_in
        self.was_far[g] = both & ((distance > FAR) | (self.was_far[g] & (distance >= NEAR)))
        place = np.minimum(distance, LONGEST_DISTANCE - 1).astype(int)
        for port in (0, 1):
            self.distances[g[both[:, port]], port, place[both[:, port], port]] += 1
        self.grabs[g] += np.isin(action, GRABS) & (a["action"] != action)
        self.off_stage[g] += step * (alive & (b["airborne"] != 0) & (np.abs(x) > self.edge[g]))
        self.shielding[g] += step * _between(action, SHIELDS)
        self.stunned[g] += step * (b["in_hitstun"] != 0)

    def figures(self, chosen: np.ndarray) -> dict[str, float]:
        """Of the players in chosen [N, 2] bool together, by name. What nothing was seen of is left out."""
        frames, hits = self.frames[chosen].sum(), self.hits[chosen].sum()
        if not frames:
            return {}
        rate = lambda counts: float(counts[chosen].sum() / frames * FRAMES_PER_MINUTE)
        share = lambda counts: float(counts[chosen].sum() / frames)
        row = {"self_destructs": rate(self.self_destructs), "hits": rate(self.hits),
               "approaches": rate(self.approaches), "grabs": rate(self.grabs), "off_stage": share(self.off_stage),
               "in_shield": share(self.shielding), "in_hitstun": share(self.stunned)}
        distances = self.distances[chosen].sum(0)
        if distances.any():
            row["distance"] = float(np.searchsorted(distances.cumsum(), distances.sum() / 2))
        if hits:
            row["commonest_move"] = float(self.attacks[chosen].sum(0).max() / hits)
        if openings := self.openings[chosen].sum():
            row["damage_per_opening"] = float(self.damage[chosen].sum() / openings)
        for name, events in (("first_hit", self.first_hits), ("ko_percent", self.ko_percents)):
            values = [value for game, port, value in events if chosen[game, port]]
            if values:
                row[name] = float(np.median(values))
        return row


def usual() -> dict[str, tuple[float, float]]:
    """Name of a figure -> the band in which nine of ten people's games lie."""
    with open(USUAL, newline="") as file:
        return {row["figure"]: (float(row["low"]), float(row["high"])) for row in csv.DictReader(file)}


def unlike_people(figures: dict[str, float]) -> list[str]:
    """Names of the figures that lie far outside people's band: by more than its width."""
    bands = usual()
    return [name for name, value in figures.items() if name in bands and
            not bands[name][0] - (width := bands[name][1] - bands[name][0]) <= value <= bands[name][1] + width]


def distance_to_people(figures: dict[str, float]) -> float:
    """0: every figure lies in people's band; 1: every one lies outside by the band's width or more, or was never
    seen. Figures count alike."""
    def outside(name, low, high):
        value = figures.get(name, np.inf)
        return min(1., max(low - value, value - high, 0.) / (high - low))

    return float(np.mean([outside(name, *band) for name, band in usual().items()]))
