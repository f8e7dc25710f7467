"""Images from the network: public addresses only, whatever a name or a redirect says."""

import contextlib
import http.server
import socket
import threading
import time

import pytest

from xgenmm_hf.serving import remote
from xgenmm_hf.serving.errors import RequestError


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "3fff::1",
        "fec0::1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not remote.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert remote.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://[::1]/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/a.png",
        "http://8.8.8.8:22/a.png",
        "http://user@8.8.8.8/a.png",
        "ftp://8.8.8.8/a.png",
        "gopher://8.8.8.8/a.png",
        "http:///a.png",
        "http://[/a.png",
        "http://8.8.8.8:99999/",
        "http://no-such-host.invalid/a.png",
        f"http://{'a' * 300}/a.png",
    ],
)
def test_no_connection_is_made_to_what_is_not_allowed(url, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(RequestError) as caught:
        remote.fetch(url, 1000, 5)
    assert caught.value.status == 400


def test_one_private_address_among_several_is_enough(monkeypatch):
    entries = [(0, 0, 0, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: entries)
    with pytest.raises(RequestError, match="not found on the public internet"):
        remote.public_address("example.org", 80)


def test_names_inside_look_like_names_that_do_not_exist(monkeypatch):
    def look_up(host, *args, **kwargs):
        if host == "nowhere.test":
            raise OSError
        return [(0, 0, 0, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    messages = []
    for host in ("nowhere.test", "internal.test"):
        with pytest.raises(RequestError) as caught:
            remote.public_address(host, 80)
        messages.append(caught.value.message.replace(host, "HOST"))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "address", ["http://example.org/a b.png", "http://example.org/\u00e4.png", "http://exa\tmple/"]
)
def test_characters_that_addresses_cannot_hold_are_named(address):
    with pytest.raises(RequestError, match="percent-encode it"):
        remote.fetch(address, 1000, 5)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        elif self.path == "/stall":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 100)
            self.rfile.read(1)  # until the client leaves
        else:
            self.send_response(200)
            self.end_headers()
            for _ in range(int(self.path.strip("/"))):
                with contextlib.suppress(OSError):
                    self.wfile.write(b"x" * 100)
                    self.wfile.flush()
                    time.sleep(0.002)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    """A site that counts as public under the name image.test, and what was connected to."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    port = server.server_address[1]
    look_up = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        return look_up("127.0.0.1" if host == "image.test" else host, *args, **kwargs)

    monkeypatch.setattr(remote, "PORTS", {"http": port, "https": port})
    monkeypatch.setattr(remote.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(remote, "is_public", lambda address: address == "127.0.0.1")
    yield "http://image.test"
    server.shutdown()
    server.server_close()


def test_fetching(site):
    assert remote.fetch(f"{site}/3", 1000, 5) == b"x" * 300
    assert remote.fetch(f"{site}/to//2", 1000, 5) == b"x" * 200
    with pytest.raises(RequestError, match="status 404"):
        remote.fetch(f"{site}/missing", 1000, 5)


def test_what_is_too_large_or_too_slow_is_given_up(site):
    with pytest.raises(RequestError) as caught:
        remote.fetch(f"{site}/50", 1000, 5)
    assert caught.value.status == 413
    with pytest.raises(RequestError, match="too long|could not be fetched"):
        remote.fetch(f"{site}/500", 10**6, 0.2)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_site_that_drips_is_cut_off(scheme, monkeypatch):
    """Neither headers nor a handshake that never end hold a thread beyond the time that there is."""
    begin = {"http": b"HTTP/1.1 200 OK\r\nX: ", "https": b"\x16\x03\x03\x40\x00"}[scheme]
    left = threading.Event()

    def drip(listener):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(begin)
            for _ in range(3000):
                connection.sendall(b"x")
                time.sleep(0.01)
            return
        left.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(remote, "PORTS", dict.fromkeys(("http", "https"), listener.getsockname()[1]))
        monkeypatch.setattr(remote, "is_public", lambda address: True)
        thread = threading.Thread(target=drip, args=[listener], daemon=True)
        thread.start()
        with pytest.raises(RequestError, match="took too long"):
            remote.fetch(f"{scheme}://127.0.0.1/a.png", 1000, 0.3)
        thread.join()
        assert left.is_set()


def test_an_answer_cut_off_at_the_deadline_is_not_taken_for_a_whole_one(site, monkeypatch):
    monkeypatch.setattr(remote.socket.socket, "settimeout", lambda *args: None)
    with pytest.raises(RequestError, match="took too long"):
        remote.fetch(f"{site}/stall", 1000, 0.2)


def test_a_redirect_to_a_malformed_address(site):
    with pytest.raises(RequestError, match="not a valid URL") as caught:
        remote.fetch(f"{site}/to/http://[bad", 1000, 5)
    assert caught.value.status == 400


def test_redirects_are_checked_and_counted(site):
    with pytest.raises(RequestError, match="more than 3"):
        remote.fetch(f"{site}/to//to//to//to//1", 1000, 5)
    for target in ("http://10.0.0.1/1", "file:///etc/passwd", "http://image.test:22/1"):
        with pytest.raises(RequestError):
            remote.fetch(f"{site}/to/{target}", 1000, 5)


def test_https_checks_the_certificate_by_name(site):
    with pytest.raises(RequestError, match="could not be fetched"):
        remote.fetch("https://image.test/1", 1000, 5)
