"""Commands run once, chains at the same time, failures stop everything and are continued."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detcon_d2.quickstart.commands import Command, explain_failure, lock_folder, run_chains
from tests.conftest import REPO


def append(folder: Path, name: str, text: str = "x", code: str = "") -> Command:
    """A command that appends ``text`` to a file and then runs ``code``."""
    product = folder / name
    return Command(f"write {name}", ("-c", f"open({str(product)!r}, 'a').write({text!r}); {code}"), folder / f"stages/{name}.json", product)


def test_a_finished_command_runs_again_only_if_its_product_is_gone(tmp_path):
    for _ in range(2):
        run_chains({"one": [append(tmp_path, "a")]})
    assert (tmp_path / "a").read_text() == "x"
    (tmp_path / "a").unlink()
    run_chains({"one": [append(tmp_path, "a")]})
    assert (tmp_path / "a").read_text() == "x"


def test_results_of_another_command_are_refused_before_anything_runs(tmp_path):
    run_chains({"one": [append(tmp_path, "a")]})
    with pytest.raises(ValueError, match="another command for 'write a'"):
        run_chains({"two": [append(tmp_path, "b")], "one": [append(tmp_path, "a", text="y")]})
    assert not (tmp_path / "b").exists()


def test_a_command_runs_in_the_callers_folder_finds_the_package_and_its_record_has_words_and_duration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import os, time, detcon_d2.quickstart as q; open('cwd', 'w').write(f'{os.getcwd()} {q.__file__}'); time.sleep(0.3)"
    command = append(tmp_path, "a", code=code)
    run_chains({"one": [command]})
    record = json.loads(command.record.read_text())
    assert record["command"] == list(command.words) and record["seconds"] >= 0.3
    assert (tmp_path / "cwd").read_text() == f"{tmp_path} {REPO / 'detcon_d2/quickstart/__init__.py'}"


def test_a_failing_command_ends_its_chain_leaves_no_record_and_the_others_go_on(tmp_path, capfd):
    failing = [append(tmp_path, "a", code="raise SystemExit(3)"), append(tmp_path, "never")]
    finished = []
    with pytest.raises(SystemExit, match=r"bad: a command failed \(exit code 3\)"), explain_failure("bad"):
        run_chains({"bad": failing, "good": [append(tmp_path, "good")]}, on_finished=finished.append)
    assert finished == ["good"] and [path.name for path in (tmp_path / "stages").glob("*.json")] == ["good.json"]
    assert not (tmp_path / "never").exists() and "== failed: bad" in capfd.readouterr().out


def test_chains_at_the_same_time_have_prefixes_and_only_the_last_state_of_a_progress_bar(tmp_path, capfd):
    chains = {name: [append(tmp_path, name, code=f"print('10 %\\r100 % of', {name!r})")] for name in ("a", "b")}
    finished = []
    run_chains(chains, jobs=2, on_finished=finished.append)
    out = capfd.readouterr().out
    assert "[a] 100 % of a" in out and "[b] 100 % of b" in out and "10 %\r" not in out
    assert sorted(finished) == ["a", "b"]


@pytest.mark.parametrize(("cores", "jobs", "threads"), [(6, 2, 3), (1, 1, 1), (2, 4, 1)])
def test_commands_share_the_cores_that_this_process_may_use(tmp_path, monkeypatch, cores, jobs, threads):
    monkeypatch.setattr("detcon_d2.quickstart.commands.available_cores", lambda: cores)
    code = f"import os; open({str(tmp_path / 'threads')!r}, 'w').write(os.environ['OMP_NUM_THREADS'])"
    run_chains({"one": [append(tmp_path, "a", code=code)]}, jobs=jobs)
    assert (tmp_path / "threads").read_text() == str(threads)


_DRIVER = """
import sys
from pathlib import Path
from detcon_d2.quickstart.commands import Command, explain_failure, lock_folder, run_chains
folder = Path(sys.argv[1])
code = f"import os, time; open({str(folder / 'pid')!r}, 'w').write(str(os.getpid()) + chr(10)); time.sleep(600)"
with explain_failure("driver"), lock_folder(folder):
    run_chains({"one": [Command("sleep", ("-c", code), folder / "stages/one.json", folder / "product")]})
"""


@pytest.fixture
def driver(tmp_path: Path):
    """A process that runs a chain, and the number of the process of its command; both have ended afterwards."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", _DRIVER, str(tmp_path)], env=environ, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (found := (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else "").endswith("\n"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    yield process, int(found)
    for number in (process.pid, int(found)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def is_running(number: int) -> bool:
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_sigterm_stops_the_running_command(driver, tmp_path):
    process, command = driver
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "driver: interrupted. Run again to continue" in err
    assert not is_running(command) and not (tmp_path / "stages/one.json").exists()


def test_a_second_call_is_refused_while_the_first_or_its_command_runs(driver, tmp_path):
    process, command = driver
    for _ in range(2):  # the second time only the command runs
        with pytest.raises(BlockingIOError, match="in use by another call, or by a command that a killed call left"), lock_folder(tmp_path):
            pass
        process.kill()
        process.wait()
    assert is_running(command)
    os.kill(command, signal.SIGKILL)
    deadline = time.monotonic() + 300
    while is_running(command) and time.monotonic() < deadline:
        time.sleep(0.05)
    with lock_folder(tmp_path):
        pass
