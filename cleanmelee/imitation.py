"""How well a policy imitates: its loss, its choices and its press rates on games, whole or by character and matchup."""

import numpy as np
import torch
from rich.table import Table

from cleanmelee.cli import UserError
from cleanmelee.controller import HEADS, NUM_BUTTONS, STICK_NEUTRAL
from cleanmelee.dataset import Games
from cleanmelee.fingerprint import distance_to_people, usual
from cleanmelee.frame import BUTTONS, CHARACTERS, FIGHTERS
from cleanmelee.terminal import Terminal
from melee_common import Policy, action_logprobs, split_logits

STICKS = list(HEADS)[1:5]                                                   # main_x, main_y, c_x, c_y
NAMES = {number: name for name, number in FIGHTERS.items()}
# what is measured -> the names of its columns
MEASURES = {**dict.fromkeys(("nll", "accuracy", "top3", "entropy"), list(HEADS)),
            **dict.fromkeys(("true_press", "press", "argmax_press"), list(BUTTONS)),
            **dict.fromkeys(("true_neutral", "neutral"), STICKS), "value_loss": [""], "nll_changed": [""]}


@torch.inference_mode()
def measure(policy: Policy, games: Games) -> dict[str, torch.Tensor]:
    """Games as they are played: the memory carried from first to last frame, the last input visible. Within a frame
    each head is given the player's true choice in the heads before it (teacher forcing).

    -> each of MEASURES [S, columns + 1]: sums over the rows of a side, and the number of rows; see `summary`."""
    sums = {name: torch.zeros(len(games.sides), len(columns) + 1, dtype=torch.float64)
            for name, columns in MEASURES.items()}
    state = ()
    for sides, rows, first in games.in_order():
        rows = rows.to(policy.device)
        weight = rows.weights                                               # [T, B]
        state = policy.initial_state(len(sides)) if first else state
        features, state = policy.unroll(rows.obs, state, rows.resets, rows.returns)
        logits = policy.logits(features, rows.actions)                      # [T, B, 81]
        logprobs, entropies = action_logprobs(logits, rows.actions)         # [T, B, 6]

        buttons, sticks, shoulder = split_logits(logits)                    # [T, B, 8], [T, B, 4, 17], [T, B, 1, 5]
        pressed = rows.actions[..., :NUM_BUTTONS] > 0
        index = rows.actions[..., NUM_BUTTONS:].long()
        right, among_3 = zip(_buttons_right(buttons, pressed), _right(sticks, index[..., :4]),
                             _right(shoulder, index[..., 4:]), strict=True)
        error = (policy.value(features) - rows.returns) ** 2
        for name, value, counts in (
                ("nll", -logprobs, weight), ("entropy", entropies, weight), ("accuracy", torch.cat(right, -1), weight),
                ("top3", torch.cat(among_3, -1), weight), ("true_press", pressed, weight),
                ("press", buttons.sigmoid(), weight), ("argmax_press", buttons > 0, weight),
                ("true_neutral", index[..., :4] == STICK_NEUTRAL, weight),
                ("neutral", sticks.softmax(-1)[..., STICK_NEUTRAL], weight),
                ("value_loss", error[..., None], weight),
                ("nll_changed", -logprobs.sum(-1, keepdim=True), rows.changed * weight)):
            total = torch.cat([(value * counts[..., None]).sum(0), counts.sum(0)[:, None]], -1)     # [B, columns + 1]
            sums[name][sides] += total.cpu()
    return sums


def _right(logits, choice):
    """[.., heads, n], [.., heads] -> is the choice the likeliest, and is it among the three likeliest? [.., heads]"""
    best = logits.topk(3).indices == choice[..., None]
    return best[..., 0], best.any(-1)


def _buttons_right(logits, pressed):
    """[.., 8] twice -> are all eight as the likeliest combination has them, and are they one of the three likeliest
    combinations? Those differ from it in the button that is least sure, and in the second least sure. [.., 1]"""
    wrong = (logits > 0) != pressed
    unsure = torch.zeros_like(wrong).scatter_(-1, (-logits.abs()).topk(2).indices, True)
    count = wrong.sum(-1, keepdim=True)
    return count == 0, (count == 0) | (count == 1) & (wrong & unsure).any(-1, keepdim=True)


def summary(sums: dict[str, torch.Tensor], sides: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """What `measure` returned, as means over the rows of these sides: a row of metrics.jsonl."""
    row = {}
    for name, columns in MEASURES.items():
        total = sums[name][sides].sum(0)
        for column, value in zip(columns, (total[:-1] / total[-1].clamp(min=1)).tolist(), strict=True):
            row[f"eval/{name}_{column}" if column else f"eval/{name}"] = value
    return {"eval/nll": sum(row[f"eval/nll_{head}"] for head in HEADS), **row}


def by_matchup(sums: dict[str, torch.Tensor], games: Games) -> dict[str, dict]:
    """Summaries by character ("fox") and by matchup ("fox against marth"), each with its number of players and frames,
    most frames first."""
    groups: dict[str, list[int]] = {}
    for side, (own, other) in enumerate(games.sides[:, 2:].tolist()):
        name, against = (NAMES.get(number, f"character {number}") for number in (own, other))
        for group in (name, f"{name} against {against}"):
            groups.setdefault(group, []).append(side)
    frames = {name: int(sums["nll"][sides, -1].sum()) for name, sides in groups.items()}
    return {name: {"players": len(groups[name]), "frames": frames[name], **summary(sums, np.array(groups[name]))}
            for name in sorted(groups, key=lambda name: (-frames[name], name))}


def warnings(row: dict[str, float]) -> list[str]:
    """Signs of a collapse that the loss does not show."""
    found = []
    for name in BUTTONS:
        true, press, argmax = (row[f"eval/{kind}_{name}"] for kind in ("true_press", "press", "argmax_press"))
        if true > .002 and not .5 < press / true < 2:
            found.append(f"{name} is held {press:.2%} of the time, by people {true:.2%}")
        elif true > .01 and argmax < .1 * true:
            found.append(f"{name} is hardly ever held without sampling")
    for name in STICKS:
        true = row[f"eval/true_neutral_{name}"]
        rests = row[f"eval/neutral_{name}"]
        if abs(rests - true) > .1:
            found.append(f"{name} rests {rests:.0%} of the time, people's {true:.0%}")
    for name in HEADS:
        nll = row[f"eval/nll_{name}"]
        entropy = row[f"eval/entropy_{name}"]
        if nll > 1.5 * entropy + .05:
            found.append(f"{name} is surer than it is right (loss {nll:.3f}, entropy {entropy:.3f})")
    return found


def report(row: dict[str, float], console: Terminal, before: dict[str, float] | None = None,
           groups: dict[str, dict] | None = None) -> None:
    """A row of `summary` as tables, beside the one `before` training, and what `by_matchup` returned."""
    heads = Table("head", *["loss before"] * (before is not None), "loss", *["right before"] * (before is not None),
                  "right", "top 3", "entropy", title="held-out games, per frame")
    rows = [x for x in (before, row) if x is not None]
    for name in HEADS:
        heads.add_row(name, *[f"{x[f'eval/nll_{name}']:.3f}" for x in rows],
                      *[f"{x[f'eval/accuracy_{name}']:.1%}" for x in rows],
                      f"{row[f'eval/top3_{name}']:.1%}", f"{row[f'eval/entropy_{name}']:.3f}")
    heads.add_section()
    heads.add_row("all", *[f"{x['eval/nll']:.3f}" for x in rows])
    heads.add_row("all, new inputs", *[f"{x['eval/nll_changed']:.3f}" for x in rows])
    held = Table("share of frames", "people", "policy", "its likeliest")
    for name in BUTTONS:
        held.add_row(name, *[f"{row[f'eval/{kind}_{name}']:.2%}" for kind in ("true_press", "press", "argmax_press")])
    held.add_section()
    for name in STICKS:
        held.add_row(f"{name} at rest", *[f"{row[f'eval/{kind}_{name}']:.2%}" for kind in ("true_neutral", "neutral")])
    console.print(heads, held)
    if groups:
        table = Table("character or matchup", "players", "frames", "loss", "new inputs", "buttons right")
        for name, x in groups.items():
            table.add_row(name, f"{x['players']:,}", f"{x['frames']:,}", f"{x['eval/nll']:.3f}",
                          f"{x['eval/nll_changed']:.3f}", f"{x['eval/accuracy_buttons']:.1%}")
        console.print(table)
    for line in warnings(row):
        console.print(f"note: {line}")


MOST_MATCHUPS = 8


def combinations(games: Games, stage: str = "final_destination") -> list[tuple[str, str, str]]:
    """The commonest matchups of these games, (own character, opponent's, stage) by name, that the embedded game can
    play; else those characters against themselves. Raises UserError if it has none of them."""
    playable = set(CHARACTERS.values())
    rows: dict[tuple[int, int], int] = {}
    for pair, count in zip(games.sides[:, 2:].tolist(), games.rows.tolist(), strict=True):
        own, other = pair
        if own in playable:
            pair = own, other if other in playable else own
            rows[pair] = rows.get(pair, 0) + count
    if not rows:
        raise UserError("--eval-games: the embedded game has none of the characters of these players, only "
                        f"{', '.join(CHARACTERS)}; leave it out, or choose one with --character")
    common = sorted(rows, key=lambda pair: (-rows[pair], pair))[:MOST_MATCHUPS]
    return [(NAMES[own], NAMES[other], stage) for own, other in common]


def closed_loop(row: dict, console: Terminal) -> None:
    """A row of `measure_strength` as tables: win rates, and the policy's style beside people's."""
    rates = Table("opponent", "won", "95 %", title=f"{row['games']} games of the embedded game against each")
    for key in [key for key in row if f"{key}_low" in row]:
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        rates.add_row(key.removeprefix("eval/winrate_"), f"{row[key]:.0%}", f"{low:.0%} to {high:.0%}")
    figures = {key.removeprefix("style/"): value for key, value in row.items() if key.startswith("style/")}
    style = Table("style", "policy", "nine of ten people", title="against itself")
    for name, (low, high) in usual().items():
        style.add_row(name, f"{figures[name]:.3g}" if name in figures else "never", f"{low:.3g} to {high:.3g}")
    console.print(rates, style)
    console.print(f"distance to people {distance_to_people(figures):.2f} (0: in all bands, 1: far from all)")
