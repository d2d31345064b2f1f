"""Free ports: none that listens, and none that the system may give to a connection before the server listens."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tldeploy.errors import ServerError
from tldeploy.triton import ports
from tldeploy.triton.ports import LOOPBACK, free_ports


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The only ports that may be drawn."""
    monkeypatch.setattr(ports, "LOWEST", lowest := min(free_ports(1)[0], ports.USUAL_END - 3))
    monkeypatch.setattr(ports, "DRAWN", 3)
    monkeypatch.setattr(ports, "SYSTEMS", tmp_path / "range")
    ports.SYSTEMS.write_text(f"{lowest + 3}\t60999\n", encoding="ascii")
    return list(range(lowest, lowest + 3))


def test_ports_are_different_and_below_those_of_connections() -> None:
    found = free_ports(50)
    assert len(set(found)) == 50
    with socket.create_server((LOOPBACK, 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert max(found) < connection.getsockname()[1]


def test_a_port_that_somebody_listens_on_is_not_given(three: list[int]) -> None:
    with socket.create_server((LOOPBACK, three[1])):
        assert sorted(free_ports(2)) == [three[0], three[2]]
    with ExitStack() as held:
        for port in three:
            held.enter_context(socket.create_server((LOOPBACK, port)))
        with pytest.raises(ServerError, match=f"from {three[0]} to {three[2]}"):
            free_ports(1)


@pytest.mark.parametrize("said", ["1024\t60999\n", "", None])
def test_where_connections_may_have_nearly_any_port_the_usual_place_is_taken(
    said: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ports, "SYSTEMS", tmp_path / "range")
    if said is not None:
        ports.SYSTEMS.write_text(said, encoding="ascii")
    assert all(ports.LOWEST <= port < ports.USUAL_END for port in free_ports(20))
