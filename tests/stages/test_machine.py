"""Living on a machine: signals, closed terminals, full disks, homes that are not there, processes that hang."""

import dataclasses
import errno
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import pytest
from helpers import ROOT

import bc
import distill
import export_onnx
import play
import ppo_selfplay
from cleanmelee import evaluation, signals
from cleanmelee.cli import PATH, UserError, expand_home, run_script
from cleanmelee.evaluation import Evaluator
from cleanmelee.files import append_jsonl, atomic_write
from cleanmelee.runs import check_begun, has_begun, lock_run, start_run


def child(code, **options):
    """A process that runs `code` in the project's folder, in a process group of its own."""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, start_new_session=True, **options)


# ------------------------------------------------------------------------------------------------ requests to end

def test_the_first_request_is_heard_once_and_another_ctrl_c_after_it():
    heard = []
    signals.on_request(lambda number, frame: heard.append(number), lambda number, frame: heard.append("again"))
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGHUP):
        signal.raise_signal(number)                                         # `timeout` sends its own twice
    assert heard == [signal.SIGTERM, "again"]


def test_nohup_is_respected():
    heard = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.on_request(lambda number, frame: heard.append(number), None)
    signal.raise_signal(signal.SIGHUP)
    assert not heard


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_ends_in_good_order_though_nobody_reads_its_output_any_more(tmp_path, number):
    """As under `| tee`, which hears the same Ctrl-C, and in a terminal that was closed."""
    process = child("import time; from pathlib import Path; from cleanmelee.runs import stop_on_interrupt\n"
                    "from cleanmelee.terminal import Terminal\n"
                    "console = Terminal(); stop = stop_on_interrupt(console.print); console.print('ready')\n"
                    "while not stop: time.sleep(.01)\n"
                    f"console.print('stopped'); Path({str(tmp_path / 'saved')!r}).touch()")
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    os.killpg(process.pid, number)
    assert process.stderr.read() == "" and process.wait() == 0 and (tmp_path / "saved").exists()


def test_output_that_is_cut_off_is_a_request_to_end(tmp_path):
    process = child("import time; from pathlib import Path; from cleanmelee.runs import stop_on_interrupt\n"
                    "from cleanmelee.terminal import Terminal\n"
                    "console = Terminal(); stop = stop_on_interrupt(console.print)\n"
                    "while not stop: console.print('line')\n"
                    f"console.print('stopped'); Path({str(tmp_path / 'saved')!r}).touch()")
    process.stdout.readline()
    process.stdout.close()                                                  # `| head -1`
    assert process.stderr.read() == "" and process.wait() == 0 and (tmp_path / "saved").exists()


def test_ctrl_c_thirty_times_leaves_no_traceback():
    process = child("import sys, time; from dataclasses import dataclass; from cleanmelee.cli import run_script\n"
                    "@dataclass\nclass Args: pass\n"
                    "def main(args):\n    try: print('ready', flush=True); time.sleep(60)\n"
                    "    finally: time.sleep(60)\n"
                    "sys.argv[1:] = []; run_script(main, Args)")
    assert process.stdout.readline() == "ready\n"
    for _ in range(30):
        process.send_signal(signal.SIGINT)
        time.sleep(.01)
    assert process.wait(10) == 130 and process.stderr.read() == ""


def test_ctrl_c_while_a_script_imports_is_quiet():
    process = child("import cleanmelee.startup, time; print('ready', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT and process.stderr.read() == ""


@pytest.mark.parametrize("script", ["bc", "distill", "export_onnx", "play", "ppo_selfplay"])
def test_a_script_imports_that_first(script):
    text = (ROOT / f"{script}.py").read_text()
    assert text.index("import cleanmelee.startup") < text.index("\nimport ")


def test_numpy_multiplies_on_one_thread():
    """Its own would be as many as there are cores, and on a busy machine they wait for each other."""
    code = "import numpy as np, os; a = np.ones((999, 999), 'f'); a @ a; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    run = lambda first: subprocess.run([sys.executable, "-c", first + code], cwd=ROOT, env=environment, text=True,
                                       capture_output=True, check=True).stdout.strip()
    assert run("import cleanmelee.startup; ") == "1" and (run("") != "1" or os.cpu_count() == 1)


# ------------------------------------------------------------------------------------- the process that evaluates

STUB = """
import json, sys, time
sys.path.insert(0, {root!r})
from cleanmelee import signals
time.sleep(.5)                                                              # the real one imports torch
signals.leave_to_parent()
for line in sys.stdin:
    time.sleep({seconds})
    print(json.dumps({{"global_step": json.loads(line)["step"]}}), flush=True)
"""


@pytest.fixture
def evaluator(tmp_path, monkeypatch, request):
    """One whose process answers after so many seconds, with a job."""
    popen = subprocess.Popen
    code = STUB.format(root=str(ROOT), seconds=request.param)
    monkeypatch.setattr(evaluation.subprocess, "Popen", lambda command, **options: popen(
        [sys.executable, "-c", code], **options))
    found = Evaluator(tmp_path, {}, 0, log=lambda line: pytest.fail(line))
    (tmp_path / "eval_7.pt").touch()
    found.jobs.append((7, tmp_path / "eval_7.pt"))
    assert list(found.finished()) == []                                     # the process is started
    yield found
    found.close()


@pytest.mark.parametrize("evaluator", [0], indirect=True)
def test_requests_do_not_reach_it_not_even_while_it_starts(evaluator):
    time.sleep(.1)
    for number in signals.REQUESTS:
        evaluator.process.send_signal(number)
    assert list(evaluator.finished(wait=True)) == [{"global_step": 7}]


@pytest.mark.parametrize("evaluator", [0], indirect=True)
def test_stopped_it_goes_on_when_its_row_is_waited_for(evaluator):
    evaluator.process.send_signal(signal.SIGSTOP)
    assert list(evaluator.finished(wait=True)) == [{"global_step": 7}]


@pytest.mark.parametrize("evaluator", [60], indirect=True)
def test_a_request_ends_the_wait_for_the_last_row_and_close_does_not_wait(evaluator):
    stop = []
    threading.Timer(.2, stop.append, [1]).start()
    began = time.monotonic()
    assert list(evaluator.finished(wait=True, stop=stop)) == [] and len(evaluator.jobs) == 1
    evaluator.process.send_signal(signal.SIGSTOP)
    evaluator.close()
    assert time.monotonic() - began < 2


# --------------------------------------------------------------------------------------------------- a run's folder

def begin(folder, name="", default="ppo_fox_seed1", **flags):
    run, lock = start_run(str(folder), name, default, flags, __file__)
    lock.release()
    return run


def test_a_default_name_takes_the_next_free_one_and_a_given_one_is_refused(tmp_path):
    assert [begin(tmp_path).name for _ in range(3)] == ["ppo_fox_seed1", "ppo_fox_seed1-2", "ppo_fox_seed1-3"]
    assert json.loads((tmp_path / "ppo_fox_seed1-3" / "args.json").read_text())["run_name"] == "ppo_fox_seed1-3"
    has_begun(begin(tmp_path, "mine"))
    with pytest.raises(UserError, match="mine: this run exists already"):
        begin(tmp_path, "mine")


def test_a_default_name_is_made_printable_and_short(tmp_path):
    assert begin(tmp_path, default="ppo_fox\r,a b/../c").name == "ppo_fox,ab..c"
    assert len(begin(tmp_path, default="x" * 1000).name) == 120


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp", "a\n", "\udc81"])
def test_a_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(UserError, match="--run-name"):
        begin(tmp_path / "inner", name)
    assert not any(tmp_path.iterdir())


def test_a_folder_without_a_checkpoint_is_started_anew(tmp_path):
    run = begin(tmp_path, "run", seed=1)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "opponent.pt").write_text("of the start that failed")
    with pytest.raises(UserError, match="before its first checkpoint"):
        check_begun(run)
    assert begin(tmp_path, "run", seed=2) == run and not (run / "checkpoints").exists()
    assert json.loads((run / "args.json").read_text())["seed"] == 2
    has_begun(run)
    check_begun(run)
    with pytest.raises(UserError, match="exists already"):
        begin(tmp_path, "run")


def test_a_full_disk_leaves_a_folder_that_can_be_started_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("touch", "write_text", "write_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, full)
            with pytest.raises(UserError, match="run: cannot be written .*No space left"):
                begin(tmp_path, "run")
    assert (begin(tmp_path, "run") / "versions.txt").exists()


def test_a_folder_in_use_is_not_taken(tmp_path):
    run = begin(tmp_path, "run")
    held = lock_run(run)
    with pytest.raises(UserError, match="another process"):
        begin(tmp_path, "run")
    held.release()


def test_the_command_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ppo_selfplay.py", "--run-name", "it's (1)", "--stage=a b;$x", "\udcff", "é"])
    told = os.fsdecode((begin(tmp_path, "run") / "command.txt").read_bytes())
    assert shlex.split(told) == ["python", *sys.argv]


# ----------------------------------------------------------------------------------------------------------- files

def test_a_row_after_a_half_line_begins_anew(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n{"half')
    append_jsonl(path, {"b": 2})
    append_jsonl(path, {"c": 3})
    assert path.read_text() == '{"a": 1}\n{"half\n{"b": 2}\n{"c": 3}\n'


def test_a_row_that_a_full_disk_cuts_short_is_taken_back_and_the_file_named(tmp_path):
    path, before = tmp_path / "results.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    append_jsonl(path, {"a": 1})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))          # the disk is full after 20 bytes
        with pytest.raises(UserError, match="results.jsonl: cannot be written"):
            append_jsonl(path, {"long": "x" * 100})
        with pytest.raises(UserError, match="checkpoint.pt: cannot be written"):
            atomic_write(tmp_path / "checkpoint.pt", b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == '{"a": 1}\n' and [path] == list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ home

@dataclasses.dataclass
class Group:
    iso: Annotated[str, PATH] = "~/melee.iso"


@dataclasses.dataclass
class Flags:
    runs_dir: Annotated[str, PATH] = "~/runs"
    policy: Annotated[str, PATH] = "a~/~"
    text: str = "~"
    live: Group = dataclasses.field(default_factory=Group)


def test_the_home_is_meant_in_flags_that_are_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    flags = Flags()
    expand_home(flags)
    assert (flags.runs_dir, flags.policy, flags.text, flags.live.iso) == (
        "/home/me/runs", "a~/~", "~", "/home/me/melee.iso")


def test_no_home_is_told(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(UserError, match="--runs-dir ~/runs: there is no home"):
        expand_home(Flags())


@pytest.mark.parametrize("script", [bc, distill, export_onnx, play, ppo_selfplay])
def test_every_flag_that_names_a_file_or_folder_is_a_path(script):
    def paths(kind):
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.type):
                yield from paths(field.type)
            elif PATH in getattr(field.type, "__metadata__", ()):
                yield field.name

    names = {"bc": "replays manifest pretrained checkpoint report resume runs_dir",
             "distill": "teacher replays output save_soft_labels soft_labels resume runs_dir",
             "export_onnx": "checkpoint output calibration_replays npz benchmark",
             "play": "policy opponent results record tournament user_json watch serve",
             "ppo_selfplay": "pretrained opponent held_out resume checkpoint runs_dir"}[script.__name__]
    assert {*paths(script.Args)} - {"dolphin", "iso"} == set(names.split())


def test_a_script_expands_them(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["play.py", "--policy=~/p.pt"])
    run_script(lambda args: seen.append(args), play.Args)
    assert seen[0].policy == f"{tmp_path}/p.pt"
