"""A decision in plain numpy, for up to some hundred rows.

For 16 rows a decision is some eighty small operations. torch takes several microseconds to begin each, numpy one; for
256 torch's time goes into items that are not there. What is computed is the same up to rounding. Weights are views of a
policy's own: what the optimizer writes is seen at once."""

import numpy as np

from cleanmelee.controller import ACTION_SIZE, HEADS, NUM_BUTTONS, NUM_SHOULDER, NUM_STICK
from cleanmelee.features import ITEMS, NANAS, TABLE_ROWS, Lens, id_columns
from cleanmelee.frame import NUM_ITEMS, NUM_PLAYERS

CATEGORICAL = list(HEADS)[1:]                                               # all but the buttons, in order of sampling
SAFE = np.float32(1e-6)                                                     # float32 cannot tell 1 - 1e-8 from 1


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


class Plain:
    """A policy but for a backbone that remembers. melee_common.py has the same in torch: `Embedding`, `Policy.value`,
    `ControllerHead.sample` and `action_logprobs`."""

    def __init__(self, weights: dict[str, np.ndarray], num_layers: int, lens: Lens | None):
        """weights: float32, by their names in a policy. num_layers: of the mlp (0: another backbone)."""
        def dense(name):
            return weights[f"{name}.weight"].T, weights[f"{name}.bias"]

        self.lens = lens
        self.item, self.nana = dense("embedding.item"), dense("embedding.nana")
        self.tables = {name: (weights[f"embedding.{name}.weight"], id_columns(name)) for name in TABLE_ROWS}
        self.layers = [dense(f"backbone.layers.{2 * k}") for k in range(num_layers)]
        self.value_head, self.project = dense("value_head"), dense("controller_head.project")
        self.logits = {name: dense(f"controller_head.logits.{name}") for name in HEADS}
        self.seen_buttons = weights["controller_head.seen_buttons.weight"].T
        self.seen = {name: weights[f"controller_head.seen.{name}.weight"] for name in CATEGORICAL[:-1]}

    def embed(self, floats: np.ndarray, ints: np.ndarray) -> np.ndarray:
        """floats [B, F], ints [B, I] -> [B, n]"""
        if self.lens:
            floats, ints = self.lens.show(floats, ints)
        ids = [table[ints[:, columns]].reshape(len(ints), -1) for name, (table, columns) in self.tables.items()
               if name not in ("item_type", "nana_action")]
        items = self._present(floats[:, ITEMS].reshape(-1, NUM_ITEMS, self.item[0].shape[0]), self.item, ints,
                              "item_type")
        nanas = self._present(floats[:, NANAS].reshape(-1, NUM_PLAYERS, self.nana[0].shape[0]), self.nana, ints,
                              "nana_action")
        return np.concatenate([floats[:, ITEMS.stop:], *ids, items.sum(1), nanas.reshape(len(ints), -1)], 1)

    def _present(self, floats, layer, ints, name):
        """floats [B, k, f], of which the first says whether there is such a thing -> [B, k, n], zeros where not. Most
        frames have none."""
        table, columns = self.tables[name]
        out = np.zeros((*floats.shape[:2], table.shape[1]), np.float32)
        there = floats[..., 0] != 0
        if there.any():
            out[there] = np.maximum(floats[there] @ layer[0] + layer[1] + table[ints[:, columns][there]], 0)
            out[there] *= floats[there][:, :1]
        return out

    def decide(self, x: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x [B, n]: embedded, or a backbone's features; uniform noise [B, 81] in (0, 1), or None for the most likely
        -> actions int8 [B, 13], their log-probabilities [B], values [B]."""
        for weight, bias in self.layers:
            x = x @ weight
            x += bias
            np.maximum(x, 0, out=x)
        actions, logits = self._sample(x, noise)
        return actions, logprobs(logits, actions), (x @ self.value_head[0])[:, 0] + self.value_head[1]

    def _sample(self, features: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """-> actions [B, 13] and the logits [B, 81] that they were drawn from"""
        B, at = len(features), NUM_BUTTONS
        actions, logits = np.empty((B, ACTION_SIZE), np.int8), np.empty((B, sum(HEADS.values())), np.float32)
        seen = features @ self.project[0]
        seen += self.project[1]
        if noise is not None:
            noise = np.clip(noise, SAFE, 1 - SAFE)
            shift = np.log(noise)
            shift[:, at:] = -np.log(-shift[:, at:])                         # Gumbel: a categorical sample
            shift[:, :at] -= np.log1p(-noise[:, :at])                       # logistic: a Bernoulli sample
        for k, (name, size) in enumerate(HEADS.items()):
            place = slice(at, at + size) if k else slice(0, at)
            weight, bias = self.logits[name]
            logits[:, place] = np.maximum(seen, 0) @ weight
            logits[:, place] += bias
            noisy = logits[:, place] if noise is None else logits[:, place] + shift[:, place]
            if k == 0:
                pressed = noisy > 0
                actions[:, :at] = pressed
                seen += pressed.astype(np.float32) @ self.seen_buttons
            else:
                choice = noisy.argmax(1)
                actions[:, NUM_BUTTONS + k - 1] = choice
                at += size
                if name in self.seen:
                    seen += self.seen[name][choice]
        return actions, logits


def logprobs(logits: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """logits [B, 81] of the actions [B, 13] that were chosen -> their log-probabilities [B]"""
    buttons, rows = logits[:, :NUM_BUTTONS], np.arange(len(logits))[:, None]
    sticks = logits[:, NUM_BUTTONS:-NUM_SHOULDER].reshape(len(logits), -1, NUM_STICK)               # [B, 4, 17]
    total = (buttons * actions[:, :NUM_BUTTONS]).sum(1) - softplus(buttons).sum(1)
    for block, choice in ((sticks, actions[:, NUM_BUTTONS:-1]), (logits[:, None, -NUM_SHOULDER:], actions[:, -1:])):
        block = block - block.max(-1, keepdims=True)
        total += block[rows, np.arange(block.shape[1]), choice].sum(1) - np.log(np.exp(block).sum(-1)).sum(1)
    return total
