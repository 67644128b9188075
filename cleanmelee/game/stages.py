"""Stages: floors, blast zones, spawns, and what moves on them."""

import threading

import numpy as np

from cleanmelee.game.ids import *  # noqa: F403

STAGE = np.dtype([
    ("floor_y", "f4", MAX_FLOORS), ("floor_left", "f4", MAX_FLOORS), ("floor_right", "f4", MAX_FLOORS),
    ("num_floors", "i4"), ("wall_bottom", "f4"), ("hull", "f4"),  # hull: how steeply the underside slants
    ("slope_start", "f4"), ("slope", "f4"), ("slope_length", "f4"),  # the main floor falls off from |x| = slope_start
    ("slope_cosine", "f4"),
    ("blast_left", "f4"), ("blast_right", "f4"), ("blast_top", "f4"), ("blast_bottom", "f4"),
    ("spawn_x", "f4", 2), ("spawn_y", "f4", 2), ("revive_x", "f4", 2), ("revive_y", "f4"),
    ("revive_vy", "f4")])


class OwnStage(threading.local):
    """Each thread's own row [1] STAGE, for a game whose floors move: the tables are everybody's."""

    def __init__(self):
        self.row = np.empty(1, STAGE)


MOVING = OwnStage()

STAGE_ROWS = {  # floors (y, left, right); blast zones (left, right, top, bottom); neutral spawns of ports 1 and 2
    FINAL_DESTINATION: (
        [(0, -85.5657, 85.5657)], (-246, 246, 188, -140), [(-60, 10), (60, 10)]),
    BATTLEFIELD: (
        [(0, -68.4, 68.4), (27.2, -57.6, -20), (27.2, 20, 57.6), (54.4, -18.8, 18.8)],
        (-224, 224, 200, -108.8), [(-38.8, 35.2), (38.8, 35.2)]),
    DREAM_LAND: (
        [(.0089, -77.2713, 77.2713), (30.1422, -61.3929, -31.7254), (30.2426, 31.7036, 63.0745),
         (51.4254, -19.0181, 19.0171)],
        (-255, 255, 250, -123), [(-46.6, 37.2), (47.4, 37.3)]),
    YOSHIS_STORY: (                                    # the last floor is Randall
        [(0, -56, 56), (23.45, -59.5, -28), (23.45, 28, 59.5), (42, -15.75, 15.75), (-33.2489, 0, 11.9)],
        (-175.7, 173.6, 168, -91), [(-42, 26.6), (42, 28)]),
    POKEMON_STADIUM: (
        [(0, -87.75, 87.75), (25, -55, -25), (25, 25, 55)], (-230, 230, 180, -111), [(-40, 32), (40, 32)]),
    FOUNTAIN: (
        [(.0029, -63.3475, 63.3475), (16.125, -49.5, -21), (22.125, 21, 49.5), (42.75, -14.25, 14.25)],
        (-198.75, 198.75, 202.5, -146.25), [(-41.25, 21), (41.25, 27)]),
}
REVIVE = {  # the platform of light: x per port, where it begins, its speed; measured
    FINAL_DESTINATION: ((16, -50), 112.85, -1.15), DREAM_LAND: ((0, 16), 188.237, -1.762975),
    YOSHIS_STORY: ((0, 0), 117.20333, -1.0966667), POKEMON_STADIUM: ((0, 0), 119, -1),
    FOUNTAIN: ((0, 0), 111.6875, -.8125)}
WALL_BOTTOM = {FINAL_DESTINATION: -16}                 # a body lower than this passes below the stage; -30 elsewhere
HULL = {FINAL_DESTINATION: .51, DREAM_LAND: 2, YOSHIS_STORY: 20}  # the underside's slant; measured; else 2, a guess
SLOPES = {  # the main floor falls off from |x| on, by so much a unit, for so many units; measured
    YOSHIS_STORY: (39.2, .2088, np.inf), FOUNTAIN: (51.261, -.2671, 2.325)}
PLATFORM_SPEEDS, PLATFORM_REST = (.1, .15), 700        # a move begins every PLATFORM_REST frames; to where is a guess:
PLATFORM_LOW, PLATFORM_HIGH = 10.0, 35.0

# Randall, the cloud of Yoshi's Story, runs round the stage in 1,200 frames: (frame, left end, height) where he turns.
RANDALL_FLOOR, RANDALL_PERIOD, RANDALL_WIDTH = 4, 1200, 11.9
RANDALL_PATH = np.array([
    (424, 91.35, -31.1602), (468, 91.35, -15.5473), (477, 89.3354, -13.6499), (1015, -101.5685, -13.6499),
    (1023, -103.6, -15.2779), (1068, -103.6, -31.2457), (1076, -101.85, -33.2489), (1615, 89.7636, -33.2489)])
