"""Ray counts as alive as long as it accepts connections."""

import socket
from threading import Event

import pytest

from trainables import heartbeat
from trainables.heartbeat import Heartbeat, RayEndedError, leaving_when_ray_ends


def test_ray_is_alive_as_long_as_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    heart = Heartbeat.__new__(Heartbeat)
    with socket.create_server(("127.0.0.1", 0)) as node, socket.create_server(("127.0.0.1", 0)) as head:
        heart.node, heart.head, heart.seen, heart.checked = node.getsockname(), head.getsockname(), 0.0, -1.0
        heart.check()
        head.close()
        now[0] = heart.patience = 30
        heart.check()
        now[0] += 1
        with pytest.raises(RayEndedError, match="Ray ended: its head has not answered for 30 s; finished work is kept"):
            heart.check()
        node.close()
        heart.check()
        now[0] += heartbeat.TICK
        with pytest.raises(RayEndedError, match="its process on this node is gone"):
            heart.check()


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_signal_that_ends_ray_too_is_an_interruption(monkeypatch: pytest.MonkeyPatch, interrupted: bool) -> None:
    """As when a terminal is closed, or `timeout` ends a process group."""
    seen, left = Event(), Event()

    class Gone:
        def check(self) -> None:
            seen.set()
            raise heartbeat.ray_ended("its process on this node is gone")

    monkeypatch.setattr(heartbeat, "Heartbeat", Gone)
    monkeypatch.setattr(heartbeat, "interrupted", lambda: interrupted)
    monkeypatch.setattr(heartbeat, "leave", lambda error, last: left.set())
    with leaving_when_ray_ends(lambda: None):
        assert (seen if interrupted else left).wait(60)
    assert left.is_set() != interrupted
