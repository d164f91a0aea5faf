"""Whether the machine of a trial is about to be taken away: Ray was asked to drain its node."""

import time

import ray

LOOK = 2.0  # seconds between two looks
AGAIN = 20.0  # seconds between two savings on a machine that is leaving: at most so much is trained again


class Leaving:
    """Says, every few seconds, that what is trained is to be saved. Of several workers, the first one saves for all."""

    def __init__(self, workers: int = 1) -> None:
        context = ray.get_runtime_context() if ray.is_initialized() else None
        self.node = context.get_node_id() if context and workers == 1 else None  # else any node may have one of them
        self.looks = ray.is_initialized()
        self.next = time.monotonic()
        self.saved = False  # since somebody last asked for it

    def __call__(self) -> bool:
        """Whether to save now."""
        now = time.monotonic()
        if not self.looks or now < self.next:
            return False
        draining = draining_nodes()
        due = bool(draining) if self.node is None else self.node in draining
        self.next = now + (AGAIN if due else LOOK)
        self.saved = self.saved or due
        return due


def draining_nodes() -> set[str]:
    """The nodes that Ray was told are leaving. Ray Train asks in the same way: there is no public one."""
    return set(ray._private.state.state.get_draining_nodes())
