"""Connections to addresses that strangers name: only to the public internet, and only to what was checked.

A name is resolved once, every address that it has must be allowed, and the connection goes to one of those very
addresses; what the name means a moment later makes no difference. Host header, SNI and certificate checks stay those
of the name.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import httpcore2

from imagekin import errors

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], list[str]]

SLOWEST_CONNECT_S = 5.0
"""How long one address gets to take a connection, so that the next may be tried."""

# The special-purpose registries of IANA (RFC 6890), written out since Python's own lists change with its version, and
# Azure's metadata service, which has a public address. The other clouds' lie in link-local, shared, IETF and
# unique-local space.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        # Teredo and 6to4 carry IPv4 addresses of anybody's choice
        "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    )
)  # fmt: skip
# All that is public in IPv6 is here; loopback, IPv4-mapped, NAT64, unique-local, link-local and multicast are not.
_UNICAST = ipaddress.IPv6Network("2000::/3")


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet and to one host of it."""
    if isinstance(address, ipaddress.IPv6Address) and (address not in _UNICAST or address.scope_id is not None):
        return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses that the system's resolver knows; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Policy:
    """Which addresses may be connected to: the public ones, and what an operator has allowed beside them.

    allowed: networks (`10.1.0.0/16`), addresses and host names; a host name is allowed with any address.
    """

    def __init__(self, allowed: Iterable[str] = (), resolve: Resolve = resolve) -> None:
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        self._resolve = resolve
        for one in allowed:
            try:
                self._networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError:
                self._hosts.add(one.lower().rstrip("."))

    def addresses(self, host: str, port: int, timeout_s: float) -> list[str]:
        """Return the addresses of a host, all of them checked.

        Raises FetchRefused if one is not allowed, FetchFailed if the host has no address, ItemTimeout.
        """
        found = [ipaddress.ip_address(address) for address in self._found(host, port, timeout_s)]
        if not found:
            raise errors.FetchFailed(f"The host {host!r} has no address.")
        if host.lower().rstrip(".") not in self._hosts and not all(map(self._allows, found)):
            # which address it was would tell a stranger about the network here
            raise errors.FetchRefused(f"The host {host!r} is not on the public internet.")
        return [str(address) for address in found]

    def _allows(self, address: Address) -> bool:
        return is_public(address) or any(address in network for network in self._networks)

    def _found(self, host: str, port: int, timeout_s: float) -> list[str]:
        """Resolve in a thread that is left behind when it takes too long: resolvers know no time limit."""
        answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolve(host, port))
            except (OSError, UnicodeError) as error:
                answers.put(OSError(str(error)))

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=max(timeout_s, 0))
        except queue.Empty:
            raise errors.ItemTimeout(f"The name {host!r} took too long to look up.") from None
        if isinstance(answer, OSError):
            raise errors.FetchFailed(f"The name {host!r} cannot be looked up.") from answer
        return answer


class Backend(httpcore2.NetworkBackend):
    """Opens connections for httpcore2 as a policy allows, and ends all reading and writing at a deadline."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._deadline = Deadline()
        self._sockets = httpcore2.SyncBackend()

    @contextmanager
    def within(self, timeout_s: float) -> Iterator[Deadline]:
        """Limit all connections of this thread in the block to this many seconds in total."""
        self._deadline.at = time.monotonic() + timeout_s
        try:
            yield self._deadline
        finally:
            self._deadline.at = float("inf")

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of a host that answers; raises as `Policy.addresses` does, and ConnectError."""
        addresses = self._policy.addresses(host, port, self._deadline.cut(timeout))
        for address in addresses[:-1]:
            try:
                return self._connect(address, port, SLOWEST_CONNECT_S, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return self._connect(addresses[-1], port, timeout, socket_options)

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Raise FetchRefused: sockets of this machine are never used."""
        raise errors.FetchRefused

    def _connect(
        self, address: str, port: int, timeout: float | None, options: Iterable[httpcore2.SOCKET_OPTION] | None
    ) -> httpcore2.NetworkStream:
        cut = self._deadline.cut(timeout)
        stream = self._sockets.connect_tcp(address, port, timeout=cut, socket_options=options or [])
        return _Stream(stream, self._deadline)


class Deadline(threading.local):
    """When each thread's work must end, on the monotonic clock."""

    at = float("inf")

    def cut(self, timeout_s: float | None) -> float:
        """Return the seconds that an operation may take; raises ItemTimeout if no time is left."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise errors.ItemTimeout("The image took too long to fetch.")
        return left if timeout_s is None else min(left, timeout_s)


class _Stream(httpcore2.NetworkStream):
    """A connection whose every operation ends at the deadline of the thread that does it."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.cut(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.cut(timeout))
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)
