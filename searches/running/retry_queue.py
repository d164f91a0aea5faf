"""A queue of requests to a server that may be away: a thread sends them in order, so nobody waits for them.

A request that fails is tried again after growing pauses: for as long as the server is away, or a few times if it answers but
refuses this one. Then the request is skipped and the others go on. Requests must be idempotent: a server may have taken one and
died before it said so.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from gpt2core.errors import UserError, without_password
from trainables.tracking import why

Send = Callable[[], None]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries
UNTIL_IT_MAY = 0.1  # seconds between two checks whether a request may go
TRIES = 4  # of a request that a server refuses; each of the next ones has a single try
LATER = ("is locked", "is full", "No space left")  # what a database says that may take a request later
FILES_GIVEN_UP = 3  # files refused in a row, after which no file is tried any more


@dataclass(frozen=True)
class Request:
    """A call to the server, and the trial that it is about. Files go to a store of their own, which may be missing."""

    send: Send
    about: str = ""
    is_file: bool = False
    may_go: Callable[[], bool] = lambda: True


class RetryQueue:
    """Sends requests in order. `say` is told when the server goes away and when it is back; `answers` raises while it is away."""

    def __init__(self, address: str, say: Callable[[str], None], answers: Send) -> None:
        self.secret, self.address = address, without_password(address)
        self.say, self.answers = say, answers
        self.waiting: deque[Request] = deque()
        self.changed = threading.Condition()
        self.hurried = self.stopped = False
        self.pause = 0.0
        self.tries = 0  # of the request that is sent now
        self.in_a_row = {False: 0, True: 0}  # requests skipped in a row, of files and of others
        self.refused: list[tuple[Request, str]] = []  # all that were skipped, and why
        self.thread = threading.Thread(target=self._work, name="retry queue", daemon=True)
        self.thread.start()

    def put(
        self, send: Send, about: str = "", *, is_file: bool = False, may_go: Callable[[], bool] = lambda: True
    ) -> None:
        """Add a request."""
        with self.changed:
            self.waiting.append(Request(send, about, is_file, may_go))
            self.changed.notify_all()

    def lacks(self, about: str) -> str:
        """Why a request about a trial was skipped; empty if none was."""
        return next((reason for request, reason in self.refused if request.about == about), "")

    def finish(self, seconds: float) -> int:
        """Wait up to `seconds` until all is sent, then stop; return how many requests were not sent."""
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
                request = self.waiting[0]
                if not request.may_go():
                    self.changed.wait_for(lambda: self.stopped, UNTIL_IT_MAY)
                    continue
            done = self._try(request)
            with self.changed:
                if done:
                    self.waiting.popleft()
                    self.tries = 0
                    self.changed.notify_all()
                else:
                    self.changed.wait_for(lambda: self.stopped, FIRST_PAUSE if self.hurried else self.pause)

    def _try(self, request: Request) -> bool:
        """Whether a request is done with."""
        if request.is_file and self.in_a_row[True] >= FILES_GIVEN_UP:
            self.refused.append((request, self.refused[-1][1]))
            return True
        try:
            request.send()
        except UserError:  # the ledger cannot be written: the search ends
            self.stopped = True
            return False
        except Exception as error:
            return self._not_taken(request, error)
        if self.pause and not self.tries:
            self.say(f"MLflow at {self.address} answers again")
        self.pause = 0.0
        self.in_a_row[request.is_file] = 0
        return True

    def _not_taken(self, request: Request, error: Exception) -> bool:
        """Whether a failed request is skipped; else it waits."""
        reason, for_good = why(error, self.secret), _is_for_good(error)
        if not for_good and (_says_later(request, reason) or not self._answers()):
            if not self.pause or self.tries:
                self.say(f"MLflow at {self.address} did not answer ({reason}); its entries wait")
            self.tries = 0
        else:
            self.tries += 1
            if for_good or self.tries >= (1 if self.in_a_row[request.is_file] else TRIES):
                self._skip(request, reason)
                return True
        self.pause = min(LONGEST_PAUSE, 2 * self.pause or FIRST_PAUSE)
        return False

    def _answers(self) -> bool:
        try:
            self.answers()
        except Exception:
            return False
        return True

    def _skip(self, request: Request, reason: str) -> None:
        if all(reason != known for _, known in self.refused) and not (request.is_file and self.in_a_row[True]):
            what = "a file" if request.is_file else "an entry"
            self.say(f"MLflow at {self.address} refused {what} ({reason}); it goes on without")
        self.refused.append((request, reason))
        self.in_a_row[request.is_file] += 1
        self.pause = 0.0


def _is_for_good(error: Exception) -> bool:
    return isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"


def _says_later(request: Request, reason: str) -> bool:
    """Whether the refusal is temporary, and holds for all other requests too."""
    return not request.is_file and any(sign in reason for sign in LATER)
