import pytest
from embedded_model.measure.commands import command_given


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (["--work", "w"], "make thing"),
        (["--work", "w", "--scale", "0.1"], "python -m some.module --work w --scale 0.1"),
        (["--work", "a b"], "python -m some.module --work 'a b'"),
    ],
)
def test_the_command_is_the_one_that_was_given(monkeypatch, given, command):
    monkeypatch.setattr("sys.argv", ["anything", *given])
    assert command_given("some.module", "thing", ["--work", "w"]) == command
