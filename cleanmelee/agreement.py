"""How well a student agrees with its teachers: on games of people, and on its own."""

import time
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from rich.table import Table

from cleanmelee.controller import HEADS, NUM_BUTTONS, NUM_LOGITS
from cleanmelee.frame import BUTTONS
from cleanmelee.labels import Lesson, answers
from cleanmelee.features import NUM_INTS
from cleanmelee.observation import Observation
from cleanmelee.terminal import Terminal
from melee_common import Policy, action_kl, action_logprobs


@torch.inference_mode()
def measure(student: Policy, lessons: Iterable[Lesson], alpha: float, temperature: float,
            prefix: str) -> dict[str, float]:
    """Means over the rows of these lessons, the student's memory carried from each sequence's first row to its last:
    what distill.py lets fall, but for the values (`loss`), KL(teacher || student) and the loss of what people did, in
    nats, whole and by head, the values' squared difference, how often people and student press each button. Names
    begin with prefix/."""
    sums, everywhere, where_people = defaultdict(float), 0., 0.
    for lesson in lessons:
        teacher, own = lesson.labels.float(), answers(student, lesson.obs, lesson.actions, lesson.starts)
        logits, own_logits = teacher[:, :NUM_LOGITS], own[:, :NUM_LOGITS]
        weights, by_people = lesson.weights.double(), lesson.by_people.double()
        for name, values, counts in (                                       # [N, heads] or [N, 1]
                ("kl", action_kl(logits, own_logits), weights),
                ("soft_kl", action_kl(logits / temperature, own_logits / temperature), weights),
                ("value_error", (teacher[:, -1:] - own[:, -1:]) ** 2, weights),
                ("teacher_nll", -action_logprobs(logits, lesson.actions)[0], by_people),
                ("student_nll", -action_logprobs(own_logits, lesson.actions)[0], by_people),
                ("true_press", lesson.actions[:, :NUM_BUTTONS], by_people),
                ("press", own_logits[:, :NUM_BUTTONS].sigmoid(), by_people)):
            sums[name] += counts @ values.double()
        everywhere, where_people = everywhere + weights.sum(), where_people + by_people.sum()
    per_head = {"kl": (sums["kl"] / everywhere).tolist()}
    if where_people:
        per_head |= {name: (sums[name] / where_people).tolist() for name in ("teacher_nll", "student_nll")}
    row = {f"{prefix}/{name}": sum(values) for name, values in per_head.items()}
    soft_kl, value_error = (float(sums[name].sum() / everywhere) for name in ("soft_kl", "value_error"))
    loss = alpha * temperature ** 2 * soft_kl + (1 - alpha) * row.get(f"{prefix}/student_nll", 0.)
    rates = {name: (sums[name] / where_people).tolist() for name in ("true_press", "press")} if where_people else {}
    return {f"{prefix}/loss": loss, f"{prefix}/value_error": value_error, **row,
            **{f"{prefix}/{name}_{head}": value
               for name, values in per_head.items() for head, value in zip(HEADS, values, strict=True)},
            **{f"{prefix}/{name}_{button}": value
               for name, values in rates.items() for button, value in zip(BUTTONS, values, strict=True)}}


@torch.inference_mode()
def step_latency(policy: Policy, repeats: int = 300) -> float:
    """Median microseconds of one frame of play: one row in, one sampled action out, on the CPU."""
    obs = Observation(torch.zeros(1, policy.num_floats), torch.zeros(1, NUM_INTS, dtype=torch.int16))
    noise = torch.rand(1, NUM_LOGITS)
    state = policy.initial_state(1)
    times = []
    for _ in range(repeats + 50):                                           # the first 50 warm up
        began = time.perf_counter()
        _, state = policy.step(obs, state, noise)
        times.append(time.perf_counter() - began)
    return float(np.median(times[50:])) * 1e6


def judged(row: dict[str, float]) -> float:
    """What a student is kept for: a low loss on held-out games and on its own, where there are both the mean."""
    return float(np.mean([row[name] for name in ("eval/loss", "on_policy/loss") if name in row]))


def describe(row: dict[str, float]) -> str:
    """A row of metrics.jsonl in a line."""
    parts = []
    if "eval/kl" in row:
        parts.append(f"held out {row['eval/student_nll']:.3f} (teacher {row['eval/teacher_nll']:.3f})  KL "
                     f"{row['eval/kl']:.3f}  value error {row['eval/value_error']:.4f}")
    if "on_policy/kl" in row:
        parts.append(f"own games: KL {row['on_policy/kl']:.3f}  value error {row['on_policy/value_error']:.4f}")
        parts += [f"{name.removeprefix('on_policy/winrate_')} {rate:.0%}"
                  for name, rate in row.items() if name.startswith("on_policy/winrate_")]
    return "  ".join(parts)


def report(teachers: list[Policy], student: Policy, row: dict, console: Terminal) -> None:
    """The best row of metrics.jsonl, sizes and latencies as a table."""
    table = Table("", "teacher", "student", "KL", "KL, own games")
    columns = "eval/teacher_nll{}", "eval/student_nll{}", "eval/kl{}", "on_policy/kl{}"
    for name, end in [*((f"{head}, loss", f"_{head}") for head in HEADS), ("all heads, loss", "")]:
        found = (row.get(column.format(end)) for column in columns)
        table.add_row(name, *["" if x is None else f"{x:.3f}" for x in found], end_section=not end)
    sizes = [sum(p.numel() for policy in of for p in policy.parameters()) for of in (teachers, [student])]
    table.add_row("parameters", *[f"{size:,}" for size in sizes])
    table.add_row("one step, p50", *[f"{sum(map(step_latency, of)):.0f} us" for of in (teachers, [student])])
    console.print(table)
