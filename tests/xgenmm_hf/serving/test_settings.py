"""Limits that make no sense are refused when the server starts; its socket sends at once."""

import socket

import pytest

from xgenmm_hf.serving.server import is_loopback, open_socket
from xgenmm_hf.serving.settings import Settings


@pytest.mark.parametrize(
    "fields",
    [{"max_batch": 0}, {"max_waiting": -1}, {"max_seconds": 0.5}, {"api_key": ""}, {"api_key": "schlüssel"}],
    ids=str,
)
def test_bad_settings(fields):
    with pytest.raises(ValueError, match="must be"):
        Settings(name="a", **fields)


def test_the_image_folder_must_exist(tmp_path):
    with pytest.raises(ValueError, match="a folder that exists"):
        Settings(name="a", image_root=tmp_path / "none")


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))


def test_a_port_that_is_taken():
    with open_socket("127.0.0.1", 0) as taken, pytest.raises(ValueError, match="another --host or --port"):
        open_socket("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ValueError, match="Cannot listen"):
        open_socket("no-such-host.invalid", 0)


def test_what_is_written_to_a_connection_leaves_at_once():
    with open_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
