"""The house: arrows go down, no stage imports a stage, no test a test, and lines end where a page does."""

import ast
import re
from pathlib import Path

import guards
import pytest
from helpers import ROOT

STAGES = ("bc", "ppo_selfplay", "distill", "export_onnx", "play")
FLOORS = [  # a room may import from those above it in this list, and from its own line
    {"frame", "libmelee", "terminal"}, {"signals", "startup"}, {"cli", "statistics"}, {"distributed"},
    {"archive", "backbones", "events", "files", "game", "workers"},
    {"runs", "slp", "rewards", "fingerprint"},
    {"packed", "features", "pictures", "tracking"}, {"replays", "recording", "dolphin", "controller", "names"},
    {"observation", "plain"}, {"games"}, {"melee_common"}, {"pool", "dataset", "player", "learning"},
    {"onnx", "reference"},
    {"population", "evaluation", "imitation", "environment", "inference", "labels", "quantisation", "resume",
     "tournament"},
    {"agreement", "selfplay", "web"}, set(STAGES)]
WITHOUT_TORCH = (
    "frame", "cli", "libmelee", "terminal", "signals", "startup", "files", "archive", "events", "slp", "packed",
    "replays", "recording", "rewards", "workers", "runs", "game", "fingerprint", "dolphin", "controller", "features",
    "names", "observation", "games", "onnx", "inference", "plain", "reference", "pictures", "tracking")
SOURCES = sorted(p for p in ROOT.rglob("*.py") if not {".venv", "runs", "__pycache__"} & set(p.relative_to(ROOT).parts))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "cleanmelee" else parts[0]


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, here or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def rooms_of(names: set[str]) -> set[str]:
    own = {name.split(".")[1] for name in names if name.startswith("cleanmelee.")}
    return own | {name.split(".")[0] for name in names} & {"melee_common", *STAGES}


ROOMS = [path for path in SOURCES if "tests" not in path.relative_to(ROOT).parts and path.name != "__init__.py"]


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_down(path):
    floor = {room: k for k, rooms in enumerate(FLOORS) for room in rooms}
    for other in rooms_of(imported(path)) - {room_of(path)}:
        assert other in floor, f"cleanmelee/{other} has no floor yet"
        assert floor[other] <= floor[room_of(path)], f"{room_of(path)} imports {other}, which stands above it"
        assert other not in STAGES, f"{room_of(path)} imports the stage {other}"


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_take_no_scripts_arguments(path):
    """A group of flags that several scripts share, such as DolphinArgs, is a room's own; a whole Args is a script's."""
    if room_of(path) in STAGES:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            for argument in node.args.args:
                group = argument.annotation is not None and re.search(r"\wArgs\b", ast.unparse(argument.annotation))
                generic = room_of(path) == "cli"                            # it parses and checks any Args
                assert argument.arg != "args" or group or generic, f"{node.name} takes a script's args"


def test_what_needs_no_torch_does_not_import_it():
    for path in ROOMS:
        if room_of(path) in WITHOUT_TORCH:
            assert "torch" not in {name.split(".")[0] for name in imported(path)}, path


def test_no_test_imports_another():
    tests = {path.stem for path in SOURCES if path.stem.startswith("test_")}
    for path in SOURCES:
        assert not {name.split(".")[0] for name in imported(path)} & tests, path


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_check_goes_away_under_python_O(path):
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_no_longer_than_120(path):
    long = [k for k, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120]
    assert not long, f"lines {long}"


def test_the_guard_of_pure_moves_sees_a_change():
    same = [guards.frame_digests(6, 30, seed=1) for _ in range(2)]
    assert same[0] == same[1] != guards.frame_digests(6, 30, seed=2)
    assert same[0][0] == 180
