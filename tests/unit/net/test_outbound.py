"""Which addresses may be connected to, and that the one which was checked is the one."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from imagekin import errors
from imagekin.net import public_addresses
from imagekin.net.public_addresses import Backend, Policy

PUBLIC = [
    "8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "198.17.255.255",
    "198.20.0.1", "223.255.255.255", "2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe", "2a00:1450::1",
]  # fmt: skip
NOT_PUBLIC = {
    "0.0.0.0": "this host",
    "0.1.2.3": "this network",
    "10.0.0.1": "private",
    "100.64.0.1": "carrier-grade NAT",
    "100.100.100.200": "Alibaba's metadata",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "Azure's metadata",
    "169.254.169.254": "metadata",
    "169.254.170.2": "container credentials",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "Oracle's metadata",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relays",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarks",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "::127.0.0.1": "IPv4-compatible",
    "::ffff:127.0.0.1": "IPv4-mapped",
    "::ffff:8.8.8.8": "IPv4-mapped",
    "64:ff9b::7f00:1": "NAT64",
    "64:ff9b::808:808": "NAT64",
    "64:ff9b:1::1": "local NAT64",
    "100::1": "discard",
    "2001::1": "Teredo",
    "2001:20::1": "ORCHID",
    "2001:db8::1": "documentation",
    "2002:7f00:1::": "6to4 of loopback",
    "3fff::1": "documentation",
    "5f00::1": "segment routing",
    "fc00::1": "unique local",
    "fd00:ec2::254": "Amazon's metadata",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local with a zone",
    "2606:4700:4700::1111%eth0": "public with a zone",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
}
# What a resolver makes of them is 127.0.0.1, or nothing: either way nobody gets there.
SPELLINGS = ["127.1", "0", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "localhost"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert public_addresses.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not public_addresses.is_public(ipaddress.ip_address(address)), NOT_PUBLIC[address]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_is_refused_for_any_address_that_is_not_public(address: str) -> None:
    policy = Policy(resolve=lambda host, port: ["8.8.8.8", address])
    with pytest.raises(errors.FetchRefused) as caught:
        policy.addresses("rebind.example", 80, 1)
    assert address not in caught.value.detail


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_loopback_gets_through(host: str) -> None:
    with pytest.raises((errors.FetchRefused, errors.FetchFailed)):
        Policy().addresses(host, 80, 10)


def test_loopback_spelled_as_a_number_is_recognised() -> None:
    with pytest.raises(errors.FetchRefused):
        Policy().addresses("2130706433", 80, 10)


@pytest.mark.parametrize(
    ("allowed", "host", "passes"),
    [
        ("127.0.0.0/8", "intranet", True),
        ("127.0.0.1", "intranet", True),
        ("intranet", "intranet", True),
        ("INTRANET.", "intranet", True),
        ("intranet", "intranet.", True),
        ("127.0.0.2", "intranet", False),
        ("intranet", "x.intranet", False),
        ("10.0.0.0/8", "intranet", False),
        ("::/0", "intranet", False),
    ],
)
def test_an_operator_allows_networks_and_hosts(allowed: str, host: str, passes: bool) -> None:
    policy = Policy([allowed], lambda host, port: ["127.0.0.1"])
    if passes:
        assert policy.addresses(host, 80, 1) == ["127.0.0.1"]
        return
    with pytest.raises(errors.FetchRefused):
        policy.addresses(host, 80, 1)


@pytest.mark.parametrize("found", [[], OSError("no such name"), UnicodeError("label too long")])
def test_a_name_that_means_nothing_fails(found: list[str] | Exception) -> None:
    def resolve(host: str, port: int) -> list[str]:
        if isinstance(found, Exception):
            raise found
        return found

    with pytest.raises(errors.FetchFailed):
        Policy(resolve=resolve).addresses("nowhere.example", 80, 1)


def test_a_slow_resolver_is_not_waited_for() -> None:
    answered = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        answered.wait()
        return ["8.8.8.8"]

    with pytest.raises(errors.ItemTimeout):
        Policy(resolve=resolve).addresses("slow.example", 80, 0.05)
    answered.set()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_the_connection_goes_to_what_was_checked(listener: socket.socket) -> None:
    """A name that means another address a moment later is not asked for again."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    backend = Backend(Policy(["127.0.0.1"], lambda host, port: answers.pop(0)))
    stream = backend.connect_tcp("rebind.example", listener.getsockname()[1], timeout=5)
    assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"
    assert answers == [["127.0.0.2"]]
    stream.close()


def test_the_next_address_is_tried(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    backend = Backend(Policy(["127.0.0.0/8"], lambda host, _: ["127.0.0.9", "127.0.0.1"]))
    stream = backend.connect_tcp("two.example", port, timeout=5)
    assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
    stream.close()


def test_nothing_goes_on_after_the_deadline(listener: socket.socket) -> None:
    backend = Backend(Policy(["127.0.0.1"]))
    with backend.within(30) as deadline:
        stream = backend.connect_tcp("127.0.0.1", listener.getsockname()[1])
        deadline.at = time.monotonic() - 1
        for action in (lambda: stream.read(1), lambda: stream.write(b"x"), lambda: backend.connect_tcp("127.0.0.1", 1)):
            with pytest.raises(errors.ItemTimeout):
                action()
    stream.close()


def test_sockets_of_this_machine_are_refused() -> None:
    with pytest.raises(errors.FetchRefused):
        Backend(Policy()).connect_unix_socket("/run/docker.sock")
