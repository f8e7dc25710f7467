"""Fetching images from public addresses, and from nowhere else.

A server that fetches addresses for strangers can give them access to its own network. Therefore the host name is
resolved once, all its addresses must be public, and the connection goes to exactly the address that was checked.
Redirects follow the same rules, and proxies from the environment are not used.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

from xgenmm_hf.serving.errors import RequestError


MAX_REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
# Networks that `ipaddress` of some Python versions counts as public: protocol assignments, prefixes that carry an IPv4
# address, possibly a private one (6to4 relay, NAT64, 6to4, Teredo), site-local addresses, and those for documentation.
_SPECIAL = [
    *map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b::/96", "64:ff9b:1::/48")),
    *map(ipaddress.ip_network, ("2002::/16", "2001::/32", "fec0::/10", "3fff::/20")),
]


def is_public(address: str) -> bool:
    """Tells whether an IP address belongs to the public internet."""
    ip = ipaddress.ip_address(address.split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if any(ip in network for network in _SPECIAL):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def public_address(host: str, port: int) -> str:
    """Returns the address of a host, or raises a RequestError if any of its addresses is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        found = []
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        # one message for both, or a stranger could learn which names exist in the local network
        raise RequestError(400, f"The host {host[:80]} of an image's address is not found on the public internet.")
    return addresses[0]


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to a checked address under the name of its host, with a deadline."""

    def __init__(self, host: str, address: str, secure: bool, end: float):
        super().__init__(host, PORTS["https" if secure else "http"])
        self._address, self._secure, self._end = address, secure, end

    def connect(self) -> None:
        stream = socket.create_connection((self._address, self.port), _left(self._end))
        if self._secure:
            context = ssl.create_default_context()
            stream = context.wrap_socket(stream, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self.stream = stream
        # If `abort` ran before this line, it found no stream; then the time is over and this line raises.
        stream.settimeout(_left(self._end))
        if isinstance(stream, ssl.SSLSocket):
            stream.do_handshake()

    def abort(self) -> None:
        """Ends any wait of the connection; a socket's own timeout starts again with every byte."""
        with suppress(OSError, AttributeError):  # closed already, or not connected yet
            self.stream.shutdown(socket.SHUT_RDWR)


def fetch(url: str, max_bytes: int, seconds: float) -> bytes:
    """Returns the bytes at a public address; raises a RequestError beyond `max_bytes`, `seconds` or the redirects."""
    end = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        data, location = _get(url, max_bytes, end)
        if location is None:
            return data
        try:
            url = urljoin(url, location)
        except ValueError:
            raise RequestError(400, "An image's address redirects to what is not a valid URL.") from None
    raise RequestError(400, f"An image's address redirects more than {MAX_REDIRECTS} times.")


def _get(url: str, max_bytes: int, end: float) -> tuple[bytes, str | None]:
    """Requests one address; returns its content, or the address that it redirects to."""
    host, path, secure = _split(url)
    connection = _PinnedConnection(host, public_address(host, PORTS["https" if secure else "http"]), secure, end)
    deadline = threading.Timer(_left(end), connection.abort)
    deadline.daemon = True
    deadline.start()
    try:
        connection.request("GET", path, headers={"User-Agent": "xgenmm-serve", "Accept": "image/*"})
        response = connection.getresponse()
        location = response.getheader("Location")
        if response.status in _REDIRECTS and location:
            return b"", location
        if response.status != 200:
            raise RequestError(400, f"The image at {host} was refused with status {response.status}.")
        return _read(response, connection, max_bytes, end), None
    except (OSError, http.client.HTTPException, ValueError) as error:
        _left(end)
        raise RequestError(400, f"The image at {host} could not be fetched ({type(error).__name__}).") from error
    finally:
        deadline.cancel()
        connection.close()


def _split(url: str) -> tuple[str, str, bool]:
    """Returns host, path and whether it is https."""
    strange = next((character for character in url if character <= " " or character > "~"), None)
    if strange is not None:
        raise RequestError(400, f"An image's address holds {strange!r}, which URLs cannot: percent-encode it.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RequestError(400, "An image's address is not a valid URL.") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise RequestError(400, "An image's address must start with http:// or https:// and name a host.")
    if port not in (None, PORTS[parts.scheme]) or parts.username is not None:
        raise RequestError(400, "An image's address must name no port and no user.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.hostname, path, parts.scheme == "https"


def _read(response: http.client.HTTPResponse, connection: _PinnedConnection, max_bytes: int, end: float) -> bytes:
    """Reads a response within limits of size and time."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise RequestError(413, f"A fetched image is larger than the limit of {max_bytes} bytes.")
        connection.stream.settimeout(_left(end))
    _left(end)  # a response that was cut off at the deadline looks complete
    return b"".join(parts)


def _left(end: float) -> float:
    """Returns the seconds that are left, or raises a RequestError."""
    left = end - time.monotonic()
    if left <= 0:
        raise RequestError(400, "Fetching the images took too long.")
    return left
