"""The API's port is nobody else's while the API starts."""

from __future__ import annotations

import socket

import pytest

from imagekin.stack import PortTaken, port


def test_a_free_port_lies_below_those_that_systems_give_away() -> None:
    free = port.claim("127.0.0.1", 0)
    assert free in port.UNASSIGNED
    with socket.create_server(("127.0.0.1", free)):
        with pytest.raises(PortTaken, match=str(free)):
            port.claim("127.0.0.1", free)
        assert port.claim("127.0.0.1", 0) != free
