"""A decision without torch, in numpy and machine code, for up to some hundred rows.

For 16 rows a decision is some eighty small operations. torch takes several microseconds to begin each, numpy one; so
numpy multiplies the matrices, and what lies between them is compiled. What is computed is the same up to rounding.
Weights are views of a policy's own: what the optimizer writes is seen at once."""

import functools

import numpy as np

from cleanmelee.controller import ACTION_SIZE, HEADS, NUM_BUTTONS
from cleanmelee.features import ITEMS, NANAS, TABLE_ROWS, Lens, id_columns
from cleanmelee.frame import NUM_ITEMS, NUM_PLAYERS
from cleanmelee.game.compiler import machine_code, policy_jit

CATEGORICAL = list(HEADS)[1:]                                               # all but the buttons, in order of sampling
FIRST_LOGITS = np.cumsum([0, *HEADS.values()]).astype(np.int32)             # [7] of each head, and how many there are
SAFE = np.float32(1e-6)                                                     # float32 cannot tell 1 - 1e-8 from 1


# ---------------------------------------------------------------------------------------------------------------------
# Between the matrices
# ---------------------------------------------------------------------------------------------------------------------

@policy_jit
def look_up(table, ids, first_id, count, out, at):
    """Rows of a learned table, side by side: ids [B, I], of which `count` from first_id on name rows; out [B, n].
    Nobody looks whether there are such rows: `observe` gives no others."""
    width = table.shape[1]
    for n in range(len(ids)):
        for k in range(count):
            row = table[ids[n, first_id + k]]
            for e in range(width):
                out[n, at + k * width + e] = row[e]


@policy_jit
def look_at_things(floats, first, weight, bias, table, ids, first_id, count, pooled, out, at):
    """`count` items or Nanas, whose floats lie side by side from `first` on. The first float of each says whether there
    is such a thing, and mostly there is none."""
    width, size = weight.shape
    for n in range(len(floats)):
        for e in range(width if pooled else count * width):
            out[n, at + e] = 0
        for k in range(count):
            begins, to = first + k * size, at if pooled else at + k * width
            there = floats[n, begins]
            if there == 0:
                continue
            for e in range(width):
                total = bias[e] + table[ids[n, first_id + k], e]
                for f in range(size):
                    total += floats[n, begins + f] * weight[e, f]
                out[n, to + e] += max(total, np.float32(0)) * there


@policy_jit
def press(logits, bias, shift, actions, pressed, exponents, logprobs):
    """The buttons: logits [B, 8] without their bias, shift [B, 81] the noise."""
    for n in range(len(logits)):
        for k in range(len(bias)):
            x = logits[n, k] + bias[k]
            down = x + shift[n, k] > 0
            actions[n, k] = pressed[n, k] = down
            exponents[n, k] = -abs(x)
            logprobs[n] += (x if down else np.float32(0)) - max(x, np.float32(0))


@policy_jit
def choose(logits, bias, shift, first, actions, column, exponents, logprobs):
    """A categorical head: logits [B, n] without their bias, its noise from column `first` of shift [B, 81] on."""
    for n in range(len(logits)):
        choice, best, top = 0, -np.inf, np.float32(-np.inf)
        for k in range(len(bias)):
            logits[n, k] += bias[k]
            top = max(top, logits[n, k])
            if logits[n, k] + shift[n, first + k] > best:
                choice, best = k, logits[n, k] + shift[n, first + k]
        actions[n, column] = choice
        logprobs[n] += logits[n, choice] - top
        for k in range(len(bias)):
            exponents[n, first + k] = logits[n, k] - top


@policy_jit
def tell(table, actions, column, seen):
    """Later heads see what this one has chosen."""
    for n in range(len(seen)):
        row = table[actions[n, column]]
        for e in range(len(row)):
            seen[n, e] += row[e]


@policy_jit
def normalise(powers, first, logprobs):
    """powers [B, 81]: e to the `exponents`. first [7]: where each head begins, and how many there are."""
    for n in range(len(powers)):
        product = np.float32(1)
        for k in range(first[1]):
            product *= 1 + powers[n, k]                                     # at most 2 ** 8
        logprobs[n] -= np.log(product)
        for head in range(1, len(first) - 1):
            total = np.float32(0)
            for k in range(first[head], first[head + 1]):
                total += powers[n, k]
            logprobs[n] -= np.log(total)


@functools.cache
def kernels() -> tuple:
    """The six of them as machine code, for float32, ids of 16 bits and actions of 8."""
    row, column, ids, actions = (np.zeros((0,) * depth, kind) for depth, kind in (
        (2, np.float32), (1, np.float32), (2, np.int16), (2, np.int8)))
    return (machine_code(look_up, row, ids, 0, 0, row, 0),
            machine_code(look_at_things, row, 0, row, column, row, ids, 0, 0, True, row, 0),
            machine_code(press, row, column, row, actions, row, row, column),
            machine_code(choose, row, column, row, 0, actions, 0, row, column),
            machine_code(tell, row, actions, 0, row), machine_code(normalise, row, FIRST_LOGITS, column))


# ---------------------------------------------------------------------------------------------------------------------
# A policy
# ---------------------------------------------------------------------------------------------------------------------

class Plain:
    """A policy but for a backbone that remembers. melee_common.py has the same in torch: `Embedding`, `Policy.value`,
    `ControllerHead.sample` and `action_logprobs`."""

    def __init__(self, weights: dict[str, np.ndarray], num_layers: int, lens: Lens | None):
        """weights: float32, by their names in a policy. num_layers: of the mlp (0: another backbone)."""
        weights = {name: np.ascontiguousarray(x) for name, x in weights.items()}    # as they are, where they are so

        def dense(name):
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        self.lens = lens
        self.item, self.nana = dense("embedding.item"), dense("embedding.nana")
        self.tables = {name: (weights[f"embedding.{name}.weight"], id_columns(name)) for name in TABLE_ROWS}
        self.layers = [dense(f"backbone.layers.{2 * k}") for k in range(num_layers)]
        self.value_head, self.project = dense("value_head"), dense("controller_head.project")
        self.logits = [dense(f"controller_head.logits.{name}") for name in HEADS]
        self.seen_buttons = weights["controller_head.seen_buttons.weight"]
        self.seen = [weights[f"controller_head.seen.{name}.weight"] for name in CATEGORICAL[:-1]]

    def embed(self, floats: np.ndarray, ints: np.ndarray) -> np.ndarray:
        """floats [B, F], ints [B, I] -> [B, n]"""
        look_up, look_at_things, *_ = kernels()
        if self.lens:
            floats, ints = self.lens.show(floats, ints)
        floats, ints = np.ascontiguousarray(floats, np.float32), np.ascontiguousarray(ints, np.int16)
        at = floats.shape[1] - ITEMS.stop
        known = [self.tables[name] for name in ("action", "character", "stage", "name")]
        widths = [table.shape[1] * (columns.stop - columns.start) for table, columns in known]
        x = np.empty((len(floats), at + sum(widths) + len(self.item[1]) + NUM_PLAYERS * len(self.nana[1])), np.float32)
        x[:, :at] = floats[:, ITEMS.stop:]
        for (table, columns), width in zip(known, widths, strict=True):
            look_up(table, ints, columns.start, columns.stop - columns.start, x, at)
            at += width
        for layer, name, place, count, pooled in ((self.item, "item_type", ITEMS, NUM_ITEMS, True),
                                                  (self.nana, "nana_action", NANAS, NUM_PLAYERS, False)):
            table, columns = self.tables[name]
            look_at_things(floats, place.start, *layer, table, ints, columns.start, count, pooled, x, at)
            at += len(layer[1])
        return x

    def decide(self, x: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x [B, n]: embedded, or a backbone's features; uniform noise [B, 81] in (0, 1), or None for the most likely
        -> actions int8 [B, 13], their log-probabilities [B], values [B]."""
        for weight, bias in self.layers:
            x = x @ weight.T
            x += bias
            np.maximum(x, 0, out=x)
        weight, bias = self.value_head
        return *self._sample(x, noise), (x @ weight.T)[:, 0] + bias

    def _sample(self, features: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """-> actions [B, 13], their log-probabilities [B]"""
        *_, press, choose, tell, normalise = kernels()
        B, shift = len(features), sampling_noise(noise) if noise is not None else None
        if shift is None:
            shift = np.zeros((B, FIRST_LOGITS[-1]), np.float32)
        actions, exponents = np.empty((B, ACTION_SIZE), np.int8), np.empty_like(shift)
        logprobs, pressed = np.zeros(B, np.float32), np.empty((B, NUM_BUTTONS), np.float32)
        weight, bias = self.project
        seen = features @ weight.T
        seen += bias
        hidden = np.maximum(seen, 0)
        for k, (weight, bias) in enumerate(self.logits):
            logits = hidden @ weight.T
            if k == 0:
                press(logits, bias, shift, actions, pressed, exponents, logprobs)
                seen += pressed @ self.seen_buttons.T
            else:
                column = NUM_BUTTONS + k - 1
                choose(logits, bias, shift, int(FIRST_LOGITS[k]), actions, column, exponents, logprobs)
                if k <= len(self.seen):
                    tell(self.seen[k - 1], actions, column, seen)
            np.maximum(seen, 0, out=hidden)
        normalise(np.exp(exponents, out=exponents), FIRST_LOGITS, logprobs)
        return actions, logprobs


def sampling_noise(noise: np.ndarray) -> np.ndarray:
    """Uniform [B, 81] in (0, 1) -> what is added to logits, so that those above 0, and of a head the largest, are a
    sample: logistic noise for the buttons, Gumbel's for the others."""
    noise = np.clip(np.ascontiguousarray(noise), SAFE, 1 - SAFE)
    shift = np.log(noise)
    shift[:, :NUM_BUTTONS] -= np.log1p(-noise[:, :NUM_BUTTONS])
    others = shift[:, NUM_BUTTONS:]
    np.log(-others, out=others)
    np.negative(others, out=others)
    return shift
