"""How the game's functions are compiled."""

import numba

jit = numba.njit(cache=True, nogil=True, error_model="numpy")  # numpy's error model: a division by zero is no exception
