"""`xgenmm run`: commands of others, with the family registered."""

import platform
import sys

import forked
import pytest

from xgenmm_hf.cli.run import find_command


SCRIPT = """
import sys
from transformers import AutoConfig
import beside_xgenmm_run
print("argv", sys.argv[1:], AutoConfig.for_model("xgenmm").model_type, beside_xgenmm_run.__name__)
if "fail" in sys.argv:
    raise RuntimeError("the script's own failure")
"""


START = "import sys; sys.argv = ['xgenmm', *sys.argv[1:]]; from xgenmm_hf.cli.app import main; main()"


@pytest.fixture
def script(tmp_path):
    (tmp_path / "beside_xgenmm_run.py").write_text("")
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    return str(file)


def test_a_script_finds_the_family_and_what_lies_beside_it(script):
    # nothing but `xgenmm run` has imported the family
    done = forked.run(["-c", START, "run", script, "--model", "x", "--help"], server=forked.others)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "argv ['--model', 'x', '--help'] xgenmm beside_xgenmm_run\n"


def test_a_failure_of_the_command_is_shown_whole(script):
    done = forked.run(["-m", "xgenmm_hf.cli.run", script, "fail"])
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: the script's own failure" in done.stderr


def test_installed_commands_and_modules_are_found(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["markdown-it", "--version"])
    with pytest.raises(SystemExit) as stopped:
        find_command("markdown-it")()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("markdown-it")
    monkeypatch.setattr(sys, "argv", ["platform"])
    with pytest.raises(SystemExit):
        find_command("platform")()
    assert platform.system() in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing.py", "no_such_module", "../nothing"])
def test_what_is_nothing_is_refused(name):
    with pytest.raises(ValueError, match="is no file, no command .* and no module; write for example"):
        find_command(name)


def test_a_command_must_be_named():
    done = forked.run(["-m", "xgenmm_hf.cli.run"])
    assert done.returncode == 1
    assert done.stderr.startswith("error: Name a command first")
