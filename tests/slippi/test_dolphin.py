"""Games on Slippi Dolphin: the real libmelee, real processes, and a stand-in for Dolphin: the embedded game."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cleanmelee import game
import ppo_selfplay
from cleanmelee.cli import UserError
from cleanmelee.controller import SHOULDER_GRID, STICK_TABLE, decode_actions
from cleanmelee.dolphin import CPU_LEVELS, HUMAN, ISO_SIZE, DolphinArgs, DolphinEnv, DolphinError, check_dolphin
from cleanmelee.frame import CHARACTERS, CONTROLLER, FIRST_CONTROL_FRAME, FRAME, ITEM, STAGES, ZELDA
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv
from cleanmelee.observation import observe
from melee_common import load_checkpoint
from helpers import dolphin_of, processes, random_actions

FOX, FALCO, MARTH, SHEIK, WATCH = (
    CHARACTERS[name] for name in ("fox", "falco", "marth", "sheik", "gameandwatch"))
FD = STAGES["final_destination"]
STAND_IN = Path(__file__).resolve().parents[1] / "tools" / "fake_dolphin.py"
NOBODY = np.zeros((1, 2), CONTROLLER)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


@pytest.fixture
def dolphin(tmp_path, monkeypatch):
    """dolphin(FAKE_SEED=7, ...) -> DolphinArgs for a stand-in with these switches, whose files lie in tmp_path/tmp."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    game.warm_up()                                                    # or every stand-in would compile the game

    def make(**switches):
        executable, iso = tmp_path / "dolphin", tmp_path / "melee.iso"
        executable.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(STAND_IN.parent)!r})\n"
                              "import fake_dolphin\nfake_dolphin.main()\n")
        executable.chmod(0o755)
        with open(iso, "wb") as file:                                       # sparse
            file.write(b"GALE01\0\2")
            file.truncate(ISO_SIZE)
        (tmp_path / "fake_dolphin.txt").write_text("".join(f"{name}={value}\n" for name, value in switches.items()))
        return DolphinArgs(dolphin=str(executable), iso=str(iso))

    return make


@pytest.fixture
def one_game(dolphin):
    """one_game(switches, args={}, characters=..., ...) -> a DolphinEnv whose first game has begun."""
    games = []

    def make(switches, args={}, characters=(FOX, MARTH), stage=FD, levels=(0, 0)):
        games.append(DolphinEnv(replace(dolphin(**switches), **args), characters, stage, levels))
        games[-1].begin()
        return games[-1]

    yield make
    for env in games:
        env.close()


def wait_until(condition, seconds=5.):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(.02)
    return condition()


def packed(frames):
    """Slippi has no item slots: items from slot 0 on."""
    frames = frames.copy()
    for frame in frames:
        items = frame["items"][frame["items"]["present"] != 0].copy()
        frame["items"] = np.zeros((), ITEM)
        frame["items"][:len(items)] = items
    return frames


# ------------------------------------------------------------------------------------------------ the same game as ever

def test_the_same_inputs_give_the_same_games_as_the_embedded_game(dolphin):
    rng = np.random.default_rng(0)
    games, items, hammers = 0, 0, set()
    with VecEnv(1, [FALCO, WATCH], FD, dolphin=dolphin(FAKE_SEED=7, FAKE_STOCKS=1), max_episode_frames=0) as envs:
        frames, hidden = np.zeros(1, FRAME), np.zeros(1, game.HIDDEN)
        while games < 3:
            game.reset_games(frames, hidden, np.ones(1, bool), [[FALCO, WATCH]], [FD], [7 + games])
            frames["players"]["stocks"] = 1
            assert frames["frame_id"][0] == FIRST_CONTROL_FRAME - 1 and envs.frames.tobytes() == frames.tobytes()
            assert not envs.controllers.view(np.uint8).any()
            over = False
            while not over:
                asked = decode_actions(random_actions(rng, 1, 2))
                if frames["frame_id"][0] > 250:                             # enough: Game & Watch goes off the edge
                    asked["main_x"][0, 1], asked["main_y"][0, 1], asked["buttons"] = 1, 0, 0
                game.step_games(frames, hidden, asked)
                terminated, truncated, broken = envs.step(asked)
                over = bool(game.game_over(frames)[0])
                assert (terminated[0], truncated[0], broken[0]) == (over, False, False)
                seen, inputs = (envs.final_frames, envs.final_controllers) if over else (envs.frames, envs.controllers)
                assert packed(frames).tobytes() == seen.tobytes() and asked.tobytes() == inputs.tobytes()
                for ours, theirs in zip(observe(packed(frames), asked), observe(seen, inputs), strict=True):
                    assert ours.tobytes() == theirs.tobytes()
                items += int(seen["items"]["present"].sum())
                hammers.add(int(seen["stored"]["hammer"][0, 1]))
            games += 1
    assert items > 100 and len(hammers) > 2                                 # lasers flew, and hammers fell


@pytest.mark.parametrize("version", ["exiai", "exiai-mainline", "mainline", "netplay"])
def test_every_stick_position_and_press_arrives_as_sent(one_game, version):
    env = one_game({"FAKE_VERSION": version}, {"fast_forward": version != "exiai", "headless": version != "netplay"})
    command = Path(f"/proc/{env.console._process.pid}/cmdline").read_bytes()
    assert (b"headless" in command) == ("mainline" in version)
    codes = (Path(env.console.dolphin_home_path) / "GameSettings" / "GALE01r2.ini").read_text().partition("[Gecko]")[0]
    assert ("FFW VS Mode" in codes) == (version == "exiai-mainline")
    asked = np.zeros((len(STICK_TABLE), len(STICK_TABLE), 2), CONTROLLER)
    asked["main_x"], asked["main_y"] = STICK_TABLE[..., None, 0], STICK_TABLE[..., None, 1]
    asked["c_x"], asked["c_y"] = STICK_TABLE[::-1, :, None, 0], STICK_TABLE[::-1, :, None, 1]
    asked["l"] = np.resize(SHOULDER_GRID, asked.shape)
    asked["buttons"] = np.random.default_rng(0).choice([0, 0x20, 0x40, 0x160, 0xE10, 0x8], asked.shape)
    for controllers in asked.reshape(-1, 2):
        assert env.step(controllers) == "on"
        assert env.controllers.tobytes() == controllers.tobytes()


def test_bots_play_on_dolphin_as_they_do_on_the_embedded_game(dolphin):
    kinds = [[BOTS["attacker"], BOTS["random"]]]
    with VecEnv(1, FOX, FD, bot_kinds=kinds, dolphin=dolphin(), max_episode_frames=60) as envs:
        moved = False
        for frame in range(1, 130):
            _, truncated, _ = envs.step(NOBODY)
            moved |= bool(envs.controllers["main_x"].any())
            assert truncated[0] == (frame % 60 == 0)
            assert envs.frames["frame_id"][0] == FIRST_CONTROL_FRAME - 1 + frame  # truncated, it goes on
        assert moved


# ---------------------------------------------------------------------------------------------------------------- menus

def test_sheik_and_a_computer_player_whose_slider_is_slow(one_game):
    env = one_game({"FAKE_CPU_RACE": 1}, characters=(SHEIK, ZELDA), stage=STAGES["battlefield"],
                   levels=(0, CPU_LEVELS["cpu9"]))
    assert env.frame["players"]["character"].tolist() == [SHEIK, ZELDA] and env.frame["stage"] == STAGES["battlefield"]
    assert env.menu.players[2].cpu_level == 9
    for _ in range(60):
        assert env.step(NOBODY[0]) == "on"
    assert env.controllers["main_x"][1] and not env.controllers["main_x"][0]


def test_a_person_chooses_for_themselves(one_game):
    env = one_game({}, characters=(FOX, FALCO), levels=(0, HUMAN))
    assert env.frame["players"]["character"].tolist() == [FOX, MARTH]
    assert env.step(NOBODY[0]) == "on"


@pytest.mark.parametrize("wrong, said", [
    ("character", r"asked for fox, fox \(cpu3\) on final_destination, but the game is fox, marth \(cpu3\)"),
    ("stage", "but the game is fox, fox .cpu3. on battlefield"),
    ("level", "but the game is fox, fox on final_destination")])
def test_a_game_that_was_not_asked_for_is_refused(one_game, wrong, said):
    with pytest.raises(DolphinError, match=said):
        one_game({"FAKE_WRONG": wrong}, characters=(FOX, FOX), levels=(0, 3))


def test_an_instant_restart_goes_to_another_stage(one_game):
    env = one_game({"FAKE_STOCKS": 1}, {"instant_restart": True})
    walk = NOBODY[0].copy()
    walk["main_x"][0] = -1
    while (status := env.step(walk)) == "on":
        pass
    process = env.console._process
    assert status == "over"
    env.begin()
    assert env.console._process is process and env.frame["frame_id"] == FIRST_CONTROL_FRAME - 1
    assert env.frame["stage"] != FD and env.frame["stage"] in STAGES.values()


def test_other_characters_and_another_stage_on_the_same_dolphin(one_game):
    env = one_game({"FAKE_STOCKS": 1}, characters=(FOX, MARTH))
    walk = NOBODY[0].copy()
    walk["main_x"][0] = -1
    for characters, stage in (((MARTH, FALCO), "battlefield"), ((SHEIK, FALCO), "dream_land")):
        process = env.console._process
        while (status := env.step(walk)) == "on":
            pass
        env.next_matchup(characters, STAGES[stage])
        env.begin()
        assert status == "over" and env.console._process is process and env.frame["stage"] == STAGES[stage]
        assert env.frame["players"]["character"].tolist() == list(characters)


# --------------------------------------------------------------------------------------------------------------- faults

def play_until_healthy(envs, seconds=60.):
    """Steps until no game is broken -> how often each was."""
    deadline, broken_steps = time.monotonic() + seconds, np.zeros(envs.num_games, int)
    while time.monotonic() < deadline:
        terminated, truncated, broken = envs.step(np.broadcast_to(NOBODY, (envs.num_games, 2)))
        assert not terminated.any() and (truncated == broken).all()
        broken_steps += broken
        if broken_steps.any() and not broken.any():
            return broken_steps
    raise AssertionError("a game never came back")


def test_dolphins_that_fail_to_start_are_replaced(dolphin, tmp_path):
    (tmp_path / "troubles").mkdir()
    troubles = ["CRASH_AT=boot", "CRASH_AT=menus", "HANG_AT=boot", "HANG_AT=pipes", "HANG_AT=menus"]
    for k, trouble in enumerate(troubles):
        (tmp_path / "troubles" / str(k)).write_text(f"FAKE_{trouble}\n")
    log = []
    args = replace(dolphin(FAKE_TROUBLES=tmp_path / "troubles"), boot_timeout=15)
    with VecEnv(5, FOX, FD, dolphin=args, log=log.append) as envs:
        assert (envs.frames["frame_id"] == FIRST_CONTROL_FRAME - 1).all()
        text = "\n".join(log)
        assert not envs.step(np.zeros((5, 2), CONTROLLER))[2].any(), text
    assert len(log) == envs.restarts == 5, text
    assert text.count("exit code 11; its last words: the stand-in crashes") == 2, text
    assert "hangs: it opened no spectator server" in text and "hangs: it does not read our controllers" in text, text
    silent, broke = text.count("hangs: no frame came"), text.count("hangs: its connection broke")
    assert silent + broke == 1, text                                        # enet gives up, too


def test_a_crash_and_a_hang_in_mid_game_are_replaced_while_the_others_play_on(dolphin, tmp_path):
    (tmp_path / "troubles").mkdir()
    (tmp_path / "troubles" / "0").write_text("FAKE_CRASH_AT=0\n")
    (tmp_path / "troubles" / "1").write_text("FAKE_HANG_AT=20\n")
    log = []
    args = replace(dolphin(FAKE_TROUBLES=tmp_path / "troubles"), step_timeout=2)
    with VecEnv(3, FOX, FD, dolphin=args, log=log.append, max_episode_frames=0) as envs:
        while len(log) < 2:
            envs.step(np.zeros((3, 2), CONTROLLER))
        last = play_until_healthy(envs)
        healthy = int(last.argmin())
        assert last[healthy] == 0 and envs.frames["frame_id"][healthy] > 20 and envs.restarts == 2
        for text in ("ended with exit code 11", "hangs: no frame came"):
            assert sum(text in line for line in log) == 1
        assert sorted(envs.frames["frame_id"])[0] < 0                       # new games


def test_training_goes_on_while_a_dolphin_crashes_and_another_hangs(dolphin, tmp_path):
    (tmp_path / "troubles").mkdir()
    (tmp_path / "troubles" / "0").write_text("FAKE_CRASH_AT=-20\n")
    (tmp_path / "troubles" / "1").write_text("FAKE_HANG_AT=80\n")
    args = dolphin(FAKE_TROUBLES=tmp_path / "troubles")
    command = [sys.executable, "ppo_selfplay.py", "--game-type", "dolphin", "--dolphin", args.dolphin,
               "--iso", args.iso, "--num-games", "4", "--timesteps", "2304", "--rollout-length", "32", "--hidden", "16",
               "--character", "fox",
               "--eval-interval", "0", "--run-name", "live", "--runs-dir", str(tmp_path), "--step-timeout", "2"]
    done = subprocess.run(command, cwd=STAND_IN.parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and "done:" in done.stdout, done.stdout + done.stderr
    out = " ".join(done.stdout.split())
    assert out.count("replaced") == 2 and "exit code 11" in out and "hangs: no frame came" in out, done.stdout
    rows = [json.loads(line) for line in (tmp_path / "live" / "metrics.jsonl").read_text().splitlines()]
    learnt = np.diff([0] + [row["charts/agent_frames"] for row in rows])    # both sides of every game that was there
    assert len(rows) == 6 and 0 < learnt.min() < 4 * 2 * 32 and learnt.max() <= 4 * 2 * 32
    assert all(np.isfinite(row["losses/policy_loss"]) for row in rows)
    Path(args.iso).unlink()
    refused = subprocess.run([*command, "--run-name", "other"], cwd=STAND_IN.parents[2], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "melee.iso: no such file" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_training_against_melees_own_computer_player(dolphin, tmp_path, monkeypatch):
    """It plays itself, from one port of each game, and nothing it does enters a batch."""
    seen, play = [], ppo_selfplay.collect

    def collect(selfplay, matchmaker, args, clock):
        rollout = play(selfplay, matchmaker, args, clock)["main"]
        envs = selfplay.envs
        sticks, characters = envs.controllers["main_x"].copy(), envs.games.characters.copy()
        seen.append((rollout["learns"], sticks, characters, selfplay.assignment))
        return {"main": rollout}

    monkeypatch.setattr(ppo_selfplay, "collect", collect)
    args = dolphin(FAKE_STOCKS=1)
    ppo_selfplay.main(ppo_selfplay.Args(
        game_type="dolphin", live=args, opponent="cpu9", num_games=2, timesteps=512,
        rollout_length=32, hidden="16", character="fox", opponent_character="marth", max_episode_frames=60,
        action_repeat=1, eval_interval=0, run_name="cpu", runs_dir=str(tmp_path)))
    learns, sticks, characters, assignment = (np.stack(part) for part in zip(*seen, strict=True))
    assert len(seen) == 8 and (learns == [[False, True], [True, False]]).all()
    assert sticks[:, [0, 1], [0, 1]].any() and (assignment[:, [0, 1], [0, 1]] == BOT_SLOT).all()
    assert (characters == [[MARTH, FOX], [FOX, MARTH]]).all()
    saved = load_checkpoint(tmp_path / "cpu" / "checkpoints" / "latest.pt")
    assert set(saved["ratings"]["payoff"]["main"]) == {"cpu9"} and saved["learner_main"]["agent_frames"] == 512


def test_a_killed_dolphin_a_killed_worker_and_a_resumed_run(dolphin):
    log = []
    with VecEnv(2, FOX, FD, dolphin=dolphin(), log=log.append, max_episode_frames=0) as envs:
        with VecEnv(2, FOX, FD) as other, pytest.raises(ValueError, match="envs.seed"):
            other.load_state_dict({**envs.state_dict(), "seed": envs.state_dict()["seed"][:8]})
        os.kill(dolphin_of(envs._workers[0]), signal.SIGKILL)
        assert play_until_healthy(envs)[1] == 0 and "ended with signal 9" in log[0]
        group = envs._workers[1].pid
        os.kill(group, signal.SIGKILL)
        assert play_until_healthy(envs)[0] == 0 and "died" in log[1] and len(log) == 2
        assert wait_until(lambda: not processes(group))                     # its Dolphin is gone as well
        envs.load_state_dict(envs.state_dict())
        before = envs.frames["frame_id"].copy()
        terminated, truncated, broken = envs.step(np.zeros((2, 2), CONTROLLER))
        assert truncated.all() and broken.all() and not terminated.any()
        assert (envs.frames["frame_id"] == before + 1).all()


def test_a_dolphin_is_recycled_after_its_games(dolphin):
    log = []
    args = replace(dolphin(FAKE_STOCKS=1), games_per_process=1)
    with VecEnv(1, [FOX, MARTH], FD, dolphin=args, log=log.append, max_episode_frames=0) as envs:
        first = dolphin_of(envs._workers[0])
        walk = NOBODY.copy()
        walk["main_x"][0, 0] = -1
        while not envs.step(walk)[0][0]:
            pass
        assert envs.final_frames["players"]["stocks"][0].tolist() == [0, 1]
        assert envs.frames["frame_id"][0] == FIRST_CONTROL_FRAME - 1        # the only game is waited for
        assert dolphin_of(envs._workers[0]) != first and not os.path.exists(f"/proc/{first}") and not log


def test_an_opponent_who_leaves_ends_the_game_without_a_winner(dolphin):
    log = []
    with VecEnv(1, FOX, FD, dolphin=dolphin(FAKE_LEAVE_AT=0), max_episode_frames=0, log=log.append) as envs:
        for _ in range(39):
            assert not any(flag[0] for flag in envs.step(NOBODY))
        terminated, truncated, broken = envs.step(NOBODY)
        assert (terminated[0], truncated[0], broken[0]) == (False, True, True)
        assert envs.final_frames["frame_id"][0] == -1 and envs.frames["frame_id"][0] == FIRST_CONTROL_FRAME - 1
        assert log == ["game 0 was left before its end: no contest, the next one begins"] and not envs.restarts
        with pytest.raises(UserError, match="game 0 was left before its end 5 times in a row"):
            for _ in range(4 * 40):
                envs.step(NOBODY)
        assert len(log) == 4
    with VecEnv(1, FOX, FD, dolphin=dolphin(FAKE_LEAVE_AT=0), max_episode_frames=30, log=log.append) as envs:
        for _ in range(6 * 40):                                          # a game that counts lies before each departure
            envs.step(NOBODY)
        assert len(log) == 10


def test_gecko_codes_that_do_not_run(one_game):
    with pytest.raises(DolphinError, match="Melee sends no frames: do its gecko codes run"):
        one_game({"FAKE_NO_GECKO": 1}, {"boot_timeout": 10})


def test_a_dolphin_that_never_starts_ends_the_run_in_one_line(dolphin):
    log = []
    with pytest.raises(UserError, match="failed to start three times in a row; .*exit code 11") as error:
        VecEnv(1, FOX, FD, dolphin=dolphin(FAKE_CRASH_AT="boot"), log=log.append)
    assert "\n" not in str(error.value) and len(log) == 2


# ------------------------------------------------------------------------------------------------------------ bad input

def spoil(args, what):
    iso, executable = Path(args.iso), Path(args.dolphin)
    if what == "no iso":
        iso.unlink()
    elif what == "cut iso":
        os.truncate(iso, 10 ** 9)
    elif what == "other game":
        iso.write_bytes(b"GALP01\0\2")
    elif what == "version 1.00":
        iso.write_bytes(b"GALE01\0\0")
    elif what == "not executable":
        executable.chmod(0o644)
    elif what == "other program":
        executable.write_text("#!/bin/sh\necho some other program 1.0\n")
    elif what == "no program":
        executable.write_bytes(b"\x7fELF nonsense")
    elif what == "window only":
        executable.with_name("fake_dolphin.txt").write_text("FAKE_VERSION=netplay\n")
    return args


@pytest.mark.parametrize("what, changes, said", [
    ("no dolphin", {"dolphin": "nowhere/dolphin"}, "--dolphin nowhere/dolphin: no such file"),
    ("no flag", {"dolphin": ""}, r"--dolphin \(empty\)"), ("no iso flag", {"iso": ""}, r"--iso \(empty\)"),
    ("not executable", {}, "--dolphin .*chmod"), ("other program", {}, "no Slippi Dolphin: .*some other program 1.0"),
    ("no program", {}, "no Slippi Dolphin: cannot run it"), ("window only", {}, "always opens a window; use an ExiAI"),
    ("no picture", {"headless": False}, "an ExiAI build shows no picture"),
    ("no iso", {}, "--iso .*melee.iso: no such file"), ("cut iso", {}, "1,000,000,000 bytes instead of 1,459,978,240"),
    ("other game", {}, "not Melee NTSC .*GALP01"), ("version 1.00", {}, "Melee 1.00; Slippi needs version 1.02"),
    ("a number", {"boot_timeout": 0.}, "--boot-timeout 0.0: must lie between 1 and 3600")])
def test_bad_paths_and_files(dolphin, what, changes, said):
    args = spoil(replace(dolphin(), **changes), what)
    with pytest.raises(UserError, match=said) as error:
        check_dolphin(args)
    assert "\n" not in str(error.value)


def test_ports_that_are_taken_and_sheik_as_a_computer_player(dolphin):
    args = dolphin()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--spectator-port {port}: taken by another program"):
            VecEnv(1, FOX, FD, dolphin=replace(args, spectator_port=port))
    with pytest.raises(UserError, match="cannot be made to choose sheik"):
        VecEnv(1, [FOX, SHEIK], FD, dolphin=args, cpu_levels=[0, 5])
    with pytest.raises(UserError, match="need a live game"):
        VecEnv(1, FOX, FD, cpu_levels=[0, 5])


# ----------------------------------------------------------------------------------------------------------- no orphans

OWNER = """
import sys
sys.path[:0] = {paths!r}
import numpy as np
from cleanmelee.dolphin import DolphinArgs
from cleanmelee.frame import CONTROLLER
from cleanmelee.games import VecEnv
try:
    with VecEnv(2, 1, 32, dolphin=DolphinArgs(dolphin={dolphin!r}, iso={iso!r})) as envs:
        print(*(worker.pid for worker in envs._workers), envs._forks._pid, flush=True)
        while {endless}:
            envs.step(np.zeros((2, 2), CONTROLLER))
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, None], ids=["kill", "interrupt", "exit"])
def test_no_process_and_no_file_outlives_the_run(dolphin, tmp_path, end):
    args = dolphin()
    code = OWNER.format(paths=[str(STAND_IN.parents[2])], dolphin=args.dolphin, iso=args.iso, endless=end is not None)
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})
    try:
        *groups, forks = map(int, owner.stdout.readline().split())
        if end is not None:
            assert all(len(processes(group)) == 3 for group in groups)      # worker, libmelee's receiver, Dolphin
            assert len(os.listdir(tmp_path / "tmp")) == 2
            owner.send_signal(end)
        owner.wait(30)
        assert wait_until(lambda: not any(map(processes, groups)) and not os.path.exists(f"/proc/{forks}"))
        assert wait_until(lambda: not os.listdir(tmp_path / "tmp"))
    finally:
        owner.kill()
        owner.wait()
        shutil.rmtree(tmp_path / "tmp", ignore_errors=True)
