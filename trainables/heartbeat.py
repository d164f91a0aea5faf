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

TICK = 0.5  # seconds between two checks
PATIENCE = 30  # seconds that a cluster's head may be away, as it may come back; Ray ends this process after 60
OWN_PATIENCE = 5  # seconds that the head of a Ray started for this process may be away: it does not come back


class RayEndedError(UserError):
    """Ray ended while the job ran."""


class Heartbeat:
    """Checks whether Ray's process on this node, and the cluster's head, accept connections."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        host, _, port = context.gcs_address.rpartition(":")
        self.node = (node["NodeManagerAddress"], node["NodeManagerPort"])
        self.head = (host, int(port))
        self.patience = PATIENCE if os.environ.get("RAY_ADDRESS") else OWN_PATIENCE
        self.checked = self.seen = time.monotonic()

    def check(self) -> None:
        """Raise RayEndedError if this node's process is gone, or the head has been away for longer than `patience`."""
        now = time.monotonic()
        if now - self.checked < TICK:
            return
        self.checked = now
        self.check_node()
        if _accepts(self.head):
            self.seen = now
        elif now - self.seen > self.patience:
            raise ray_ended(f"its head has not answered for {self.patience} s")

    def check_node(self) -> None:
        """Raise RayEndedError if this node's process is gone."""
        if not _accepts(self.node):
            raise ray_ended("its process on this node is gone")


@contextmanager
def leaving_when_ray_ends(last: Callable[[], object]) -> Iterator[Heartbeat]:
    """End this process, after a call of `last`, as soon as Ray is gone: any call of Ray may then hang for a minute."""
    heart, over = Heartbeat(), threading.Event()

    def watch() -> None:
        while not over.wait(TICK):
            try:
                heart.check()
            except RayEndedError as error:
                if not (interrupted() and over.wait(OWN_PATIENCE)):  # a signal to the process group ends Ray too
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
    """Print the error, call `last`, and exit without disconnecting from Ray, which would hang and then fail."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    try:
        last()
        sys.stdout.flush()
    finally:
        os._exit(2)


def ray_ended(reason: object) -> RayEndedError:
    """Return the error for a Ray that ended for this reason."""
    line = str(reason).partition("\n")[0]
    return RayEndedError(f"Ray ended: {line}; finished work is kept, and the same command resumes it")


def _accepts(address: tuple[str, int]) -> bool:
    """Whether something accepts connections at the address, even if slowly."""
    try:
        socket.create_connection(address, timeout=5).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True
