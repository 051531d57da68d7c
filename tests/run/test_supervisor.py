from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from backend.errors import UserError
from backend.files import write_json_atomic
from backend.run import supervisor
from backend.run.folder import REQUEST_KINDS, RunFolder, create_run
from backend.run.process import ProcessIdentity, identify
from backend.run.removal import delete_run
from backend.run.state import RunState, derive_state, is_live
from tests.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]

# A worker that says it is ready and then waits to be killed.
STUBBORN = "print('ready', flush=True)\nimport time\nwhile True: time.sleep(0.02)"

# A worker that also holds its ears shut against SIGTERM.
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STUBBORN

# A worker that looks at its requests, as the real one does.
POLITE = """
import sys, time
from pathlib import Path
from backend.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.lock():
    print("ready", flush=True)
    while not folder.requested("stop") and not folder.requested("finish"):
        time.sleep(0.02)
    folder.write_outcome("stopped" if folder.requested("stop") else "finished_early", "asked to")
"""

only_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until_ready(folder: RunFolder) -> None:
    wait_for(lambda: "ready" in folder.read_log_tail(), folder.read_log_tail)


def pid_of(folder: RunFolder) -> int:
    launched = folder.read_launched()
    assert launched is not None
    return int(launched["pid"])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    run = create_run(tmp_path, {}, "run")
    yield run
    for child in list(supervisor._children):
        child.kill()
        child.wait()
    supervisor.reap()


def test_launch_records_the_process_and_appends_its_log(folder: RunFolder) -> None:
    folder.log_path.write_text("earlier\n", encoding="utf-8")
    code = (
        "import os, sys; print(sys.argv[1]); print(os.getcwd(), file=sys.stderr);"
        "print(repr(sys.stdin.read()), sys.stdout.encoding, 'é')"
    )
    supervisor.launch(folder, argv_prefix=python(code))
    launched = folder.read_launched()
    assert launched is not None
    assert launched["argv"] == [*python(code), str(folder.path)]
    wait_for(lambda: not is_live(folder))
    assert folder.read_log_tail().splitlines() == [
        "earlier",
        str(folder.path),
        str(REPOSITORY),
        "'' utf-8 é",
    ]
    assert derive_state(folder) is RunState.INTERRUPTED  # it ended without a word


def test_default_command_is_the_worker(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "no-such-python")
    with pytest.raises(FileNotFoundError):
        supervisor.launch(folder)
    assert folder.read_launched() is None
    assert derive_state(folder) is RunState.CREATED


@only_posix
def test_worker_has_its_own_session(folder: RunFolder) -> None:
    supervisor.launch(folder, argv_prefix=python(STUBBORN))
    assert os.getsid(pid_of(folder)) == pid_of(folder)


def test_killed_worker_is_interrupted_and_reaped(folder: RunFolder) -> None:
    supervisor.launch(folder, argv_prefix=python(STUBBORN))
    assert derive_state(folder) is RunState.RUNNING
    psutil.Process(pid_of(folder)).kill()
    wait_for(lambda: not is_live(folder))
    assert derive_state(folder) is RunState.INTERRUPTED
    wait_for(lambda: supervisor.reap() or not supervisor._children)
    assert not psutil.pid_exists(pid_of(folder))


def test_live_run_is_not_launched_again(folder: RunFolder) -> None:
    supervisor.launch(folder, argv_prefix=python(STUBBORN))
    launched = folder.read_launched()
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    for start in (supervisor.launch, supervisor.resume):
        with pytest.raises(UserError, match="running already"):
            start(folder, argv_prefix=python(STUBBORN))
    with pytest.raises(UserError, match="running already"):
        supervisor.record_launch(folder)
    assert folder.read_launched() == launched


def test_clicks_at_once_start_one(folder: RunFolder) -> None:
    barrier = threading.Barrier(4)
    refusals: list[UserError] = []

    def click() -> None:
        barrier.wait()
        try:
            supervisor.launch(folder, argv_prefix=python(STUBBORN))
        except UserError as error:
            refusals.append(error)

    threads = [threading.Thread(target=click) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refusals) == 3
    assert len(supervisor._children) == 1


def test_launch_waits_for_nobody_who_is_launching(folder: RunFolder) -> None:
    with folder.launch_lock(), pytest.raises(UserError, match="being started"):
        supervisor.launch(folder, argv_prefix=python(STUBBORN))
    assert folder.read_launched() is None


def test_worker_outlives_the_process_that_launched_it(folder: RunFolder) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from backend.run import supervisor; from backend.run.folder import RunFolder\n"
        f"supervisor.launch(RunFolder(Path(sys.argv[1])), argv_prefix=[sys.executable, '-c', {POLITE!r}])"
    )
    subprocess.run([*python(code), str(folder.path)], cwd=REPOSITORY, check=True)
    wait_until_ready(folder)
    assert derive_state(folder) is RunState.RUNNING
    supervisor.stop(folder, grace_s=30).join()
    wait_for(lambda: not is_live(folder))
    assert derive_state(folder) is RunState.STOPPED


def test_polite_worker_finishes_when_asked(folder: RunFolder) -> None:
    supervisor.launch(folder, argv_prefix=python(POLITE))
    wait_until_ready(folder)
    assert supervisor.request_finish(folder)
    wait_for(lambda: not is_live(folder))
    assert derive_state(folder) is RunState.FINISHED_EARLY
    assert not supervisor.request_stop(folder)


def test_polite_worker_is_stopped_without_a_signal(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_signal", lambda *_, **__: pytest.fail("no signal is due"))
    supervisor.launch(folder, argv_prefix=python(POLITE))
    wait_until_ready(folder)
    supervisor.stop(folder, grace_s=60).join()
    assert derive_state(folder) is RunState.STOPPED
    assert not supervisor._children


@only_posix
@pytest.mark.parametrize(
    ("code", "number"), [(STUBBORN, signal.SIGTERM), (DEAF, signal.SIGKILL)], ids=["term", "kill"]
)
def test_stop_escalates(folder: RunFolder, code: str, number: signal.Signals) -> None:
    supervisor.launch(folder, argv_prefix=python(code))
    wait_until_ready(folder)
    (child,) = supervisor._children
    thread = supervisor.stop(folder, grace_s=0.2, term_grace_s=60 if number == signal.SIGTERM else 0.2)
    assert derive_state(folder) in (RunState.STOPPING, RunState.STOPPED)
    thread.join()
    assert not is_live(folder)
    wait_for(lambda: child.poll() is not None)
    assert child.returncode == -number
    assert derive_state(folder) is RunState.STOPPED  # it had no time to say so


@only_posix
def test_asked_twice_it_insists_once(folder: RunFolder) -> None:
    """A worker that has heard one SIGTERM is saving; a second one makes it leave at once."""
    supervisor.launch(folder, argv_prefix=python(DEAF))
    wait_until_ready(folder)
    threads = [supervisor.stop(folder, grace_s=0.3, term_grace_s=0.3) for _ in range(3)]
    assert threads[0] is threads[1] is threads[2]
    threads[0].join()
    assert not is_live(folder)


@only_posix
def test_stop_reaches_the_children_of_the_worker(folder: RunFolder) -> None:
    code = "import subprocess as sp, sys\n"
    code += f"helper = sp.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=sp.DEVNULL)\n"
    code += "print('helper', helper.pid, flush=True)\n" + STUBBORN
    supervisor.launch(folder, argv_prefix=python(code))
    wait_until_ready(folder)
    helper = psutil.Process(int(folder.read_log_tail().split()[1]))
    supervisor.stop(folder, grace_s=0.0, term_grace_s=60).join()
    wait_for(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE)


def test_reused_pid_is_never_signalled(folder: RunFolder) -> None:
    stranger = subprocess.Popen(python(STUBBORN), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        process = identify(stranger.pid)
        earlier = replace(
            process, create_time=process.create_time - 100, start_ticks=process.start_ticks and 7
        )
        folder.write_launched(earlier, [])
        assert derive_state(folder) is RunState.INTERRUPTED
        supervisor.stop(folder, grace_s=0.0, term_grace_s=0.0).join()
        supervisor._escalate(earlier, 0.0, 0.0)
        supervisor._signal(earlier, force=True)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@only_posix
@pytest.mark.parametrize("step_s", [2, -3600])
def test_after_a_step_of_the_clock_cancel_still_insists(folder: RunFolder, step_s: int) -> None:
    supervisor.launch(folder, argv_prefix=python(DEAF))
    wait_until_ready(folder)
    launched = folder.read_launched()
    write_json_atomic(
        folder.path / "launched.json", {**launched, "create_time": launched["create_time"] + step_s}
    )
    with pytest.raises(UserError, match="running already"):
        supervisor.resume(folder, argv_prefix=python(STUBBORN))
    with pytest.raises(UserError, match="running already"):
        delete_run(folder)
    supervisor.stop(folder, grace_s=0.1, term_grace_s=0.1).join()
    wait_for(lambda: not is_live(folder))


@only_posix
def test_a_living_run_that_the_version_before_launched_is_stopped(folder: RunFolder) -> None:
    supervisor.launch(folder, argv_prefix=python(DEAF))
    wait_until_ready(folder)
    launched = folder.read_launched()
    kept = {name: launched[name] for name in ("pid", "create_time", "argv", "host", "time")}
    write_json_atomic(folder.path / "launched.json", kept)
    assert derive_state(folder) is RunState.RUNNING
    supervisor.stop(folder, grace_s=0.1, term_grace_s=0.1).join()
    wait_for(lambda: not is_live(folder))


def test_nothing_is_started_where_the_lock_is_held(folder: RunFolder) -> None:
    folder.write_launched(ProcessIdentity(2**22 + 1, 1.0), [])
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    launched = folder.read_launched()
    with folder.lock():
        for start in (supervisor.launch, supervisor.resume):
            with pytest.raises(UserError, match="running already"):
                start(folder, argv_prefix=python(STUBBORN))
        with pytest.raises(UserError, match="running already"):
            supervisor.record_launch(folder)
    assert folder.read_launched() == launched and not supervisor._children
    supervisor.resume(folder, argv_prefix=python(STUBBORN))


def test_recorded_process_is_refused_if_another_holds_the_lock(folder: RunFolder) -> None:
    supervisor.record_launch(folder)
    with folder.lock(), pytest.raises(UserError, match="running already"):
        supervisor.record_launch(folder)


def test_a_process_of_another_host_with_our_pid_is_another(folder: RunFolder) -> None:
    supervisor.record_launch(folder)
    launched = folder.read_launched()
    write_json_atomic(folder.path / "launched.json", {**launched, "host": "elsewhere", "time": time.time()})
    with pytest.raises(UserError, match="running already"):
        supervisor.record_launch(folder)


def test_nothing_is_asked_of_a_run_that_nobody_trains(folder: RunFolder) -> None:
    folder.write_launched(ProcessIdentity(2**22 + 1, 1.0), [])
    supervisor.stop(folder).join()
    for ask in (supervisor.request_finish, supervisor.request_save, supervisor.request_stop):
        assert not ask(folder)
    assert not any(folder.requested(kind) for kind in REQUEST_KINDS)
    assert derive_state(folder) is RunState.INTERRUPTED  # and not stopped, as if somebody had asked for it


def test_actions_on_a_copy_leave_the_running_original_alone(folder: RunFolder) -> None:
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    supervisor.launch(folder, argv_prefix=python(POLITE))
    wait_until_ready(folder)
    original = folder.read_launched()
    copy = RunFolder(folder.path.with_name("copy"))
    shutil.copytree(folder.path, copy.path)
    assert derive_state(copy) is RunState.INTERRUPTED and not is_live(copy)
    supervisor.stop(copy, grace_s=0.0, term_grace_s=0.0).join()
    for ask in (supervisor.request_finish, supervisor.request_save, supervisor.request_stop):
        assert not ask(copy)
    assert derive_state(folder) is RunState.RUNNING
    supervisor.resume(copy, argv_prefix=python(POLITE))
    assert pid_of(copy) != pid_of(folder) and folder.read_launched() == original
    wait_for(copy.is_locked)
    supervisor.stop(copy).join()
    assert derive_state(copy) is RunState.STOPPED
    delete_run(copy)
    assert not copy.path.exists()
    assert derive_state(folder) is RunState.RUNNING
    supervisor.stop(folder).join()
    assert derive_state(folder) is RunState.STOPPED


@only_posix
def test_a_run_that_is_renamed_while_it_trains_is_not_lost(folder: RunFolder) -> None:
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    supervisor.launch(
        folder, argv_prefix=python("import signal\nsignal.signal(15, signal.SIG_IGN)\n" + POLITE)
    )
    wait_until_ready(folder)
    renamed = RunFolder(folder.path.rename(folder.path.with_name("renamed")))
    assert derive_state(renamed) is RunState.RUNNING
    with pytest.raises(UserError, match="running already"):
        delete_run(renamed)
    for start in (supervisor.launch, supervisor.resume):
        with pytest.raises(UserError, match="running already"):
            start(renamed, argv_prefix=python(STUBBORN))
    supervisor.stop(renamed, grace_s=0.1, term_grace_s=0.1).join()  # it polls the folder that is gone
    wait_for(lambda: not is_live(renamed))
    supervisor.resume(renamed, argv_prefix=python(POLITE))
    wait_for(renamed.is_locked)
    supervisor.stop(renamed).join()
    assert derive_state(renamed) is RunState.STOPPED


@only_posix
def test_group_that_is_not_the_workers_own_is_spared(folder: RunFolder) -> None:
    # A train.py inside a script shares the script's process group.
    script = "import subprocess, sys, time\n"
    script += f"worker = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}])\n"
    script += "print(worker.pid, flush=True)\nworker.wait()\nprint('the script goes on', flush=True)"
    outer = subprocess.Popen(python(script), stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert outer.stdout is not None
    supervisor.record_launch(folder, int(outer.stdout.readline()))
    supervisor.stop(folder, grace_s=0.0, term_grace_s=60).join()
    output, _ = outer.communicate()
    assert "the script goes on" in output
    assert not is_live(folder)


def test_worker_on_another_host_is_only_asked(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    supervisor.launch(folder, argv_prefix=python(STUBBORN))
    monkeypatch.undo()
    assert derive_state(folder) is RunState.RUNNING  # launched a moment ago
    supervisor.stop(folder, grace_s=0.0, term_grace_s=0.0).join()
    assert folder.requested("stop")
    (child,) = supervisor._children
    assert child.poll() is None


def test_ended_run_is_resumed_and_not_launched(folder: RunFolder) -> None:
    folder.write_outcome("stopped", "asked to")
    folder.request("stop")
    with pytest.raises(UserError, match="has ended"):
        supervisor.launch(folder, argv_prefix=python(POLITE))
    with pytest.raises(UserError, match=r"last\.pt") as caught:
        supervisor.resume(folder, argv_prefix=python(POLITE))
    assert caught.value.field == "resume"
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    supervisor.resume(folder, argv_prefix=python(POLITE))
    assert not folder.requested("stop")
    assert derive_state(folder) is RunState.RUNNING
    assert (folder.path / "outcome.1.json").exists()
    wait_until_ready(folder)


def test_foreground_training_records_itself(folder: RunFolder) -> None:
    folder.write_outcome("stopped", "asked to")
    folder.request("stop")
    supervisor.record_launch(folder)
    supervisor.record_launch(folder)  # the same process may say it again
    launched = folder.read_launched()
    assert launched is not None
    assert launched["pid"] == os.getpid()
    assert launched["argv"]
    assert derive_state(folder) is RunState.RUNNING


def test_process_that_cannot_be_recorded_is_killed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(RunFolder, "write_launched", fail)
    with pytest.raises(OSError, match="disk full"):
        supervisor.launch(folder, argv_prefix=python(STUBBORN))
    wait_for(lambda: supervisor.reap() or not supervisor._children)
