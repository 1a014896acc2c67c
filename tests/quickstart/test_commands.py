"""Stages run once, chains side by side, failures stop everything and are continued."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detcon_d2.quickstart.commands import Chain, Stage, lock_folder, run_chains
from tests.conftest import REPO


def append(folder: Path, name: str, text: str = "x", code: str = "") -> Stage:
    """A stage that appends ``text`` to a file and then runs ``code``."""
    product = folder / name
    return Stage(f"write {name}", ("-c", f"open({str(product)!r}, 'a').write({text!r}); {code}"), folder / f"stages/{name}.json", product)


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    chain = Chain("one", (append(tmp_path, "a"),))
    run_chains([chain], tmp_path)
    run_chains([chain], tmp_path)
    assert (tmp_path / "a").read_text() == "x"


def test_a_stage_whose_product_is_gone_runs_again(tmp_path: Path) -> None:
    chain = Chain("one", (append(tmp_path, "a"),))
    run_chains([chain], tmp_path)
    (tmp_path / "a").unlink()
    run_chains([chain], tmp_path)
    assert (tmp_path / "a").read_text() == "x"


def test_results_of_another_command_are_refused_before_anything_runs(tmp_path: Path) -> None:
    run_chains([Chain("one", (append(tmp_path, "a"),))], tmp_path)
    with pytest.raises(ValueError, match="another command for 'write a'"):
        run_chains([Chain("two", (append(tmp_path, "b"),)), Chain("one", (append(tmp_path, "a", text="y"),))], tmp_path)
    assert not (tmp_path / "b").exists()


def test_the_record_tells_command_and_duration(tmp_path: Path) -> None:
    stage = append(tmp_path, "a", code="import time; time.sleep(0.3)")
    run_chains([Chain("one", (stage,))], tmp_path)
    record = json.loads(stage.record.read_text())
    assert record["command"] == list(stage.command) and record["seconds"] >= 0.3


def test_commands_run_in_the_folder_that_is_given(tmp_path: Path) -> None:
    product = tmp_path / "here"
    command = ("-c", f"import os; open({str(product)!r}, 'w').write(os.getcwd())")
    run_chains([Chain("one", (Stage("where", command, tmp_path / "stages/r.json", product),))], tmp_path)
    assert product.read_text() == str(tmp_path)


def test_a_failing_stage_ends_its_chain_stops_the_others_and_leaves_no_record(tmp_path: Path) -> None:
    failing = Chain("bad", (append(tmp_path, "a", code="raise SystemExit(3)"), append(tmp_path, "never")))
    slow = Chain("slow", (append(tmp_path, "slow", code="import time; time.sleep(60)"),))
    start = time.monotonic()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_chains([slow, failing], tmp_path, jobs=2)
    assert caught.value.returncode == 3
    assert time.monotonic() - start < 50
    assert not (tmp_path / "never").exists()
    assert not list((tmp_path / "stages").glob("*.json"))


def test_chains_side_by_side_prefix_their_lines_and_are_told_when_finished(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    chains = [Chain(name, (append(tmp_path, name, code=f"print('hello from', {name!r})"),)) for name in ("a", "b")]
    finished = []
    run_chains(chains, tmp_path, jobs=2, on_finished=lambda chain: finished.append(chain.name))
    out = capfd.readouterr().out
    assert "[a] hello from a" in out and "[b] hello from b" in out
    assert sorted(finished) == ["a", "b"]


def test_a_carriage_return_keeps_the_last_state_of_a_progress_bar(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    chains = [Chain(name, (append(tmp_path, name, code="print('10 %\\r100 %')"),)) for name in ("a", "b")]
    run_chains(chains, tmp_path, jobs=2)
    out = capfd.readouterr().out
    assert "[a] 100 %" in out and "10 %\r" not in out


_DRIVER = """
import sys
from pathlib import Path
from detcon_d2.quickstart.commands import Chain, Stage, lock_folder, run_chains
folder = Path(sys.argv[1])
code = f"import os, time; open({str(folder / 'pid')!r}, 'w').write(str(os.getpid()) + chr(10)); time.sleep(120)"
with lock_folder(folder) as lock:
    run_chains([Chain("one", (Stage("sleep", ("-c", code), folder / "stages/one.json", folder / "product"),))], folder, lock=lock)
"""


@pytest.fixture
def driver(tmp_path: Path):
    """A process that runs a chain, and the number of the process of its stage; both are gone afterwards."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", _DRIVER, str(tmp_path)], env=environ, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
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


def test_sigterm_stops_what_runs(driver, tmp_path: Path) -> None:
    process, stage = driver
    process.terminate()
    assert process.wait(timeout=30) != 0
    assert not is_running(stage) and not (tmp_path / "stages/one.json").exists()


def test_a_second_call_is_refused_while_the_first_or_what_it_left_behind_runs(driver, tmp_path: Path) -> None:
    process, stage = driver
    for _ in range(2):  # the second time only the stage is left
        with pytest.raises(BlockingIOError, match="in use by another call, or by a stage that a killed one left"), lock_folder(tmp_path):
            pass
        process.kill()
        process.wait()
    assert is_running(stage)
    os.kill(stage, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while is_running(stage) and time.monotonic() < deadline:
        time.sleep(0.05)
    with lock_folder(tmp_path):
        pass
