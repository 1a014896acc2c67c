"""``detcon_d2 COMMAND``: every tool, by one command."""

import subprocess
import sys

import pytest

from detcon_d2.cli.main import COMMANDS, main
from tests.conftest import PATIENCE, REPO


@pytest.fixture(autouse=True)
def restored_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    # From Python 3.14 on, argparse takes the program's name from here where it can.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)


def test_there_is_a_command_for_every_tool() -> None:
    assert {path.stem for path in (REPO / "tools").glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_how_it_was_called(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: detcon_d2 {name} ") and f"{name}.py" not in out


def test_a_module_call_lists_the_commands_and_unknown_ones_are_refused(capsys: pytest.CaptureFixture) -> None:
    listed = subprocess.run([sys.executable, "-m", "detcon_d2"], cwd=REPO, capture_output=True, text=True, timeout=PATIENCE)
    assert listed.returncode == 0 and all(f"  {name} " in listed.stdout for name in COMMANDS)
    assert main(["train-net"]) == 2
    assert "train-net is not a command. Did you mean train_net?" in capsys.readouterr().err


def test_generate_masks_never_imports_torch() -> None:
    code = (
        "import sys\nfrom detcon_d2.cli.main import main\n"
        "try:\n    main(['generate_masks', '--help'])\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "False"


def test_a_config_that_does_not_exist_is_one_line_with_similar_names(capsys: pytest.CaptureFixture) -> None:
    assert main(["train_net", "--config-file", "configs/DetCon/detcon_b_R_50_in1k_30ep.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("detcon_d2 train_net: ") and "detcon_b_R_50_in1k_300ep.yaml" in error and error.count("\n") == 1
