"""Whether Ray lives is seen by whether it listens."""

import socket

import pytest

from trainables import heartbeat
from trainables.heartbeat import Heartbeat, RayEndedError


def test_ray_is_alive_as_long_as_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    heart = Heartbeat.__new__(Heartbeat)
    with socket.create_server(("127.0.0.1", 0)) as node, socket.create_server(("127.0.0.1", 0)) as head:
        heart.node, heart.head, heart.seen, heart.asked = node.getsockname(), head.getsockname(), 0.0, -1.0
        heart.check()
        head.close()
        now[0] = heart.patience = 30
        heart.check()
        now[0] += 1
        with pytest.raises(
            RayEndedError, match="Ray ended: its head has not answered for 30 s; what is finished is kept"
        ):
            heart.check()
        node.close()
        heart.check()
        now[0] += heartbeat.TICK
        with pytest.raises(RayEndedError, match="its process on this node is gone"):
            heart.check()
