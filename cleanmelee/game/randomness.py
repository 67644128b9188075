"""Random numbers: counted, not drawn from a state, so that a game repeats from its seed."""

import numpy as np

from cleanmelee.game.compiler import jit


@jit
def random_uniform(seed, frame, purpose):
    """[0, 1), the same whenever seed, frame and purpose are."""
    z = np.uint64(seed) + np.uint64(frame + 1000) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(purpose) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0 ** -53
