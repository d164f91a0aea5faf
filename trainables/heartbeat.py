"""Whether Ray is alive. Ray itself takes 15 to 60 s to notice that it ended, and then exits this process at any point."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import ray

from gpt2core.cli import interrupted
from gpt2core.errors import UserError

TICK = 0.5  # seconds between two looks at Ray
PATIENCE = (
    30  # seconds that the head of a cluster may be away, for it may come back; Ray itself ends the process after 60
)
OWN_PATIENCE = 5  # seconds for one that was started for this process, which does not


class RayEndedError(UserError):
    """Ray ended while the job ran."""


class Heartbeat:
    """Checks whether Ray's process on this node, and its head, accept connections."""

    def __init__(self) -> None:
        here = ray.get_runtime_context()
        node = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
        head, _, port = here.gcs_address.rpartition(":")
        self.node = (node["NodeManagerAddress"], node["NodeManagerPort"])
        self.head = (head, int(port))
        self.patience = PATIENCE if os.environ.get("RAY_ADDRESS") else OWN_PATIENCE
        self.asked = self.seen = time.monotonic()

    def check(self) -> None:
        """Raise RayEndedError if this node's process is gone, or the head for longer than `patience`."""
        now = time.monotonic()
        if now - self.asked < TICK:
            return
        self.asked = now
        self.check_node()
        if _answers(self.head):
            self.seen = now
        elif now - self.seen > self.patience:
            raise ended(f"its head has not answered for {self.patience} s")

    def check_node(self) -> None:
        """Raise RayEndedError if this node's process is gone."""
        if not _answers(self.node):
            raise ended("its process on this node is gone")


@contextmanager
def leaving_when_ray_ends(last: Callable[[], object]) -> Iterator[Heartbeat]:
    """End this process, after `last`, as soon as Ray is gone: any call to it may then hang for a minute."""
    heart, over = Heartbeat(), threading.Event()

    def watch() -> None:
        while not over.wait(TICK):
            try:
                heart.check()
            except RayEndedError as error:
                if not (interrupted() and over.wait(OWN_PATIENCE)):  # a signal to all of a group ends Ray too
                    leave(error, last)

    thread = threading.Thread(target=watch, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield heart
    except RayEndedError as error:
        leave(error, last)
    finally:
        over.set()
        thread.join()


def leave(error: Exception, last: Callable[[], object]) -> NoReturn:
    """Exit at once if Ray is gone: disconnecting from it would hang, and then fail."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    try:
        last()
        sys.stdout.flush()
    finally:
        os._exit(2)


def ended(why: object) -> RayEndedError:
    """The error for that."""
    return RayEndedError(
        f"Ray ended: {str(why).splitlines()[0]}; what is finished is kept, and the same command goes on"
    )


def _answers(address: tuple[str, int]) -> bool:
    """Whether something accepts connections there; a slow one does."""
    try:
        socket.create_connection(address, timeout=5).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True
