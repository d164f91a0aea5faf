"""A queue of requests to a server that may be unavailable. A thread sends them in order, so nobody waits for them.

A request that fails is retried after growing pauses: as long as the server is unavailable, or a few times if it answers but
refuses. Then it is skipped, and the next request is sent. Requests must be idempotent, because a server may carry one out and
die before it answers.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from gpt2core.errors import UserError, without_password
from trainables.tracking import mlflow_reason

Send = Callable[[], None]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two attempts
HOLD = 0.1  # seconds between two checks whether a request may go
TRIES = 4  # attempts for a refused request; a single one for those that follow it
TEMPORARY = ("is locked", "is full", "No space left")  # refusals of a database that may end
FILES_GIVEN_UP = 3  # refused files in a row, after which files are skipped without an attempt


@dataclass(frozen=True)
class Request:
    """A call of the server about a trial. `is_file`: it goes to the artifact store, which may be missing."""

    send: Send
    trial: str = ""
    is_file: bool = False
    may_go: Callable[[], bool] = lambda: True


class RetryQueue:
    """Sends requests in order. `say` reports that the server is gone or back; `ping` raises while it is unavailable."""

    def __init__(self, uri: str, say: Callable[[str], None], ping: Send) -> None:
        self.uri, self.server = uri, f"MLflow at {without_password(uri)}"
        self.say, self.ping = say, ping
        self.waiting: deque[Request] = deque()
        self.changed = threading.Condition()
        self.hurry = self.stopped = False
        self.pause = 0.0
        self.tries = 0  # refusals of the current request
        self.skipped_in_a_row = {False: 0, True: 0}  # by `is_file`
        self.refused: list[tuple[Request, str]] = []  # all skipped requests, with the reason
        self.thread = threading.Thread(target=self._work, name="retry queue", daemon=True)
        self.thread.start()

    def put(
        self, send: Send, trial: str = "", *, is_file: bool = False, may_go: Callable[[], bool] = lambda: True
    ) -> None:
        """Add a request; it and all later ones wait until `may_go` returns True."""
        with self.changed:
            self.waiting.append(Request(send, trial, is_file, may_go))
            self.changed.notify_all()

    def lacks(self, trial: str) -> str:
        """Return why a request about a trial was skipped, or an empty string."""
        return next((reason for request, reason in self.refused if request.trial == trial), "")

    def finish(self, seconds: float) -> int:
        """Wait up to `seconds` until the queue is empty, then stop; return the number of unsent requests."""
        deadline = time.monotonic() + seconds
        with self.changed:
            self.hurry = True
            self.changed.notify_all()
            while self.waiting and not self.stopped and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(left)
            self.hurry = False
            self.stopped = self.stopped or bool(self.waiting)
            return len(self.waiting)

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                if self.stopped:
                    return
                request = self.waiting[0]
                if not request.may_go():
                    self.changed.wait_for(lambda: self.stopped, HOLD)
                    continue
            done = self._try(request)
            with self.changed:
                if done:
                    self.waiting.popleft()
                    self.tries = 0
                    self.changed.notify_all()
                else:
                    self.changed.wait_for(lambda: self.stopped, FIRST_PAUSE if self.hurry else self.pause)

    def _try(self, request: Request) -> bool:
        """Send a request; return False if it must be sent again."""
        if request.is_file and self.skipped_in_a_row[True] >= FILES_GIVEN_UP:
            self.refused.append((request, self.refused[-1][1]))
            return True
        try:
            request.send()
        except UserError:  # the ledger cannot be written: the search ends
            self.stopped = True
            return False
        except Exception as error:
            return self._handle(request, error)
        if self.pause and not self.tries:
            self.say(f"{self.server} answers again")
        self.pause = 0.0
        self.skipped_in_a_row[request.is_file] = 0
        return True

    def _handle(self, request: Request, error: Exception) -> bool:
        """Skip a failed request and return True, or return False if it must be sent again."""
        reason = mlflow_reason(error, self.uri)
        permanent = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
        temporary = not request.is_file and any(text in reason for text in TEMPORARY)
        if not permanent and (temporary or not self._is_available()):
            if not self.pause or self.tries:
                self.say(f"{self.server} did not answer ({reason}); its entries wait in a queue")
            self.tries = 0
        else:
            self.tries += 1
            if permanent or self.tries >= (1 if self.skipped_in_a_row[request.is_file] else TRIES):
                self._skip(request, reason)
                return True
        self.pause = min(LONGEST_PAUSE, 2 * self.pause or FIRST_PAUSE)
        return False

    def _is_available(self) -> bool:
        try:
            self.ping()
        except Exception:
            return False
        return True

    def _skip(self, request: Request, reason: str) -> None:
        if all(reason != known for _, known in self.refused) and not (request.is_file and self.skipped_in_a_row[True]):
            entry = "a file" if request.is_file else "an entry"
            self.say(f"{self.server} refused {entry} ({reason}); the search continues without it")
        self.refused.append((request, reason))
        self.skipped_in_a_row[request.is_file] += 1
        self.pause = 0.0
