"""Letters to a server that may be away: sent in their order by a thread of their own, so that nobody waits for them.

What could not be sent is tried again, after ever longer pauses. Sending must do no harm twice: a server may have taken a letter
and died before it said so.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from mlflow.exceptions import MlflowException

from gpt2core.errors import UserError, first_line, without_passwords

Send = Callable[[], None]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries


class Delivery:
    """Sends what is put into it. `say` is told, once each time, that nothing gets through and that it does again."""

    def __init__(self, address: str, say: Callable[[str], None]) -> None:
        self.address, self.say = without_passwords(address), say
        self.waiting: deque[Send] = deque()
        self.changed = threading.Condition()
        self.hurried = self.stopped = False
        self.pause = 0.0
        self.thread = threading.Thread(target=self._work, name="delivery", daemon=True)
        self.thread.start()

    def put(self, send: Send) -> None:
        """Take a letter."""
        with self.changed:
            self.waiting.append(send)
            self.changed.notify_all()

    def finish(self, seconds: float) -> int:
        """Wait until all is sent, but no longer than that; then stop, and return how many letters were not sent."""
        deadline = time.monotonic() + seconds
        with self.changed:
            self.hurried = True
            self.changed.notify_all()
            while self.waiting and not self.stopped and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(left)
            self.hurried = False
            self.stopped = self.stopped or bool(self.waiting)
            return len(self.waiting)

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                if self.stopped:
                    return
                send = self.waiting[0]
            sent = self._try(send)
            with self.changed:
                if sent:
                    self.waiting.popleft()
                    self.changed.notify_all()
                else:
                    self.changed.wait_for(lambda: self.stopped, FIRST_PAUSE if self.hurried else self.pause)

    def _try(self, send: Send) -> bool:
        """Whether a letter needs no further try."""
        try:
            send()
        except UserError:  # the ledger cannot be written: the search ends
            self.stopped = True
            return False
        except Exception as error:
            if isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE":
                self.say(f"MLflow at {self.address} refused an entry ({first_line(error)}); it goes on without")
                return True
            if not self.pause:
                self.say(f"MLflow at {self.address} did not answer ({first_line(error)}); its entries wait")
            self.pause = min(LONGEST_PAUSE, 2 * self.pause or FIRST_PAUSE)
            return False
        if self.pause:
            self.say(f"MLflow at {self.address} answers again")
        self.pause = 0.0
        return True
