"""A failure is one line on stderr and an exit code."""

import errno
import subprocess
import sys

import pytest
import typer

from xgenmm_hf.cli.errors import friendly_errors


def failing(error: BaseException):
    @friendly_errors
    def verb() -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("size is 3; it must be 4"), "error: size is 3; it must be 4\n"),
        (ValueError("first line\n  second   line\n"), "error: first line second line\n"),
        (OSError("the Hub does not answer"), "error: the Hub does not answer\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.bin"),
            "error: a.bin: No such file or directory\n",
        ),
        (KeyError("x"), "error: unexpected KeyError: 'x' (XGENMM_DEBUG=1 shows where)\n"),
        (RuntimeError(""), "error: unexpected RuntimeError: (XGENMM_DEBUG=1 shows where)\n"),
    ],
)
def test_an_error_is_one_line(error, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        failing(error)()
    assert stopped.value.code == 1
    assert capsys.readouterr() == ("", expected)


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("XGENMM_DEBUG", "1")
    with pytest.raises(ValueError, match="bad"):
        failing(ValueError("bad"))()


def test_ctrl_c_is_quiet(capsys):
    with pytest.raises(SystemExit) as stopped:
        failing(KeyboardInterrupt())()
    assert stopped.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [typer.Exit(3), typer.BadParameter("no"), typer.Abort()])
def test_typer_keeps_its_own(error):
    with pytest.raises(type(error)):
        failing(error)()


def test_the_signature_survives():
    @friendly_errors
    def verb(one: int, two: str = "x") -> str:
        """Says what it got."""
        return f"{one}{two}"

    assert verb(1) == "1x"
    assert verb.__doc__ == "Says what it got."


def test_a_reader_that_hangs_up_is_no_error():
    code = (
        "from xgenmm_hf.cli.errors import friendly_errors\n"
        "@friendly_errors\n"
        "def verb():\n"
        "    for _ in range(100000): print('a line that nobody reads')\n"
        "verb()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
