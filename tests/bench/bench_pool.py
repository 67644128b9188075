"""Processes that share one pool: adds, draws and prunes at once, every read checked.

    python tests/bench/bench_pool.py                               # two processes, 4000 operations each; about a minute

Every policy carries its own id in its weights, so a read that is torn, stale or of another file shows. Afterwards both
indexes must hold exactly what was added, and the folder exactly the files that are active or in use. Prints one line;
exits non-zero if anything was broken.
"""

import contextlib
import io
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee.pool import Pool
from melee_common import Policy, load_checkpoint

HISTORY = 8


def mark(policy: Policy, agent: str, step: int) -> None:
    with torch.no_grad():
        policy.value_head.bias.fill_(1e6 * int(agent.removeprefix("agent")) + step)


def work(directory: str, agent: str, operations: int) -> dict:
    """-> how often what was done, and what was wrong."""
    torch.set_num_threads(1)
    rng, pool, policy = (
        np.random.default_rng(int(agent.removeprefix("agent"))), Pool(directory, HISTORY), Policy("mlp", (8,)))
    done, in_use, step, slowest = Counter(), set(), 0, 0.
    with contextlib.redirect_stderr(io.StringIO()) as warnings:
        for operation in rng.choice(["add", "draw", "prune"], operations, p=[.3, .6, .1]):
            start = time.perf_counter()
            if operation == "add":
                step += 1
                mark(policy, agent, step)
                name = pool.add(policy, agent, step)
                done["wrong"] += pool.current(agent) != name
            elif operation == "draw":
                name = pool.sample(rng)
                if name is not None:
                    expected = 1e6 * int(pool.agent(name).removeprefix("agent")) + pool.step(name)
                    done["wrong"] += pool.load(name).value_head.bias.item() != expected
                    in_use = {name} if pool.agent(name) == agent else set()
            else:
                pool.prune(in_use, agents={agent}, owner=agent)
                done["wrong"] += any(not pool.path(name).is_file() for name in in_use)
            done[operation] += 1
            slowest = max(slowest, time.perf_counter() - start)
    pool.prune(in_use, agents={agent}, owner=agent)
    lines = warnings.getvalue().splitlines()
    return {
        **done, "wrong": done["wrong"], "warnings": lines[:3], "in_use": sorted(in_use), "steps": step,
        "slowest": slowest}


def begin(directory: Path, agent: str, operations: int):
    """-> a process that works, forked, since a new one would import for seconds; and the pipe with its report."""
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(work(str(directory), agent, operations)))
    process.start()
    theirs.close()
    return process, pipe


def receive(pipe) -> dict:
    """Its report, empty if it ended without one."""
    try:
        return pipe.recv()
    except EOFError:
        return {}


def stress(directory: Path, processes: int, operations: int) -> dict:
    """Runs the workers side by side and checks what they leave behind -> counts; `problems` is empty if all went
    well."""
    start = time.perf_counter()
    running = [begin(directory, f"agent{k}", operations) for k in range(processes)]
    reports = [report for report in (receive(pipe) for _, pipe in running) if report]
    for process, _ in running:
        process.join()
    seconds = time.perf_counter() - start
    problems = [f"process {k} ended with {p.exitcode}" for k, (p, _) in enumerate(running) if p.exitcode]
    pool = Pool(directory, HISTORY)
    every = {f"agent{k}": [f"agent{k}_{step:012d}" for step in range(1, r["steps"] + 1)] for k, r in enumerate(reports)}
    files = {path.stem for path in directory.glob("*.pt")}
    for what, found, expected in (
            ("index of all", set(pool.all_ids()), {name for names in every.values() for name in names}),
            ("active index", set(pool.ids()), {name for names in every.values() for name in names[-HISTORY:]}),
            ("files", files, set(pool.ids()).union(*(r["in_use"] for r in reports))),
            ("left-overs", set(directory.glob(".*.tmp")), set())):
        if found != expected:
            problems.append(f"{what}: {len(found)} instead of {len(expected)}")
    problems += [line for r in reports for line in r["warnings"]]
    for name in files:
        load_checkpoint(pool.path(name))                                    # raises if one is broken
    totals = {key: sum(r.get(key, 0) for r in reports) for key in ("add", "draw", "prune", "wrong")}
    return {
        **totals, "seconds": seconds, "slowest": max((r["slowest"] for r in reports), default=0.0),
        "problems": problems}


def main(operations: int = 4000, processes: int = 2, directory: str = "") -> None:
    """Args:
        operations: of each process
        processes: how many share the pool
        directory: of the pool (default: a temporary one)
    """
    with tempfile.TemporaryDirectory() as temporary:
        r = stress(Path(directory or temporary), processes, operations)
    problems = "; ".join(r["problems"]) or "none"
    print(f"{processes} processes, {r['add']} adds, {r['draw']} draws, {r['prune']} prunes in {r['seconds']:.0f} s; "
          f"slowest {1000 * r['slowest']:.0f} ms; {r['wrong']} wrong reads; problems: {problems}")
    sys.exit(bool(r["wrong"] or r["problems"]))


if __name__ == "__main__":
    tyro.cli(main)
