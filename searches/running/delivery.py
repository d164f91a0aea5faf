"""Letters to a server that may be away: sent in their order by a thread of their own, so that nobody waits for them.

What could not be sent is tried again, after ever longer pauses: for as long as the server is away, but where it answers and does
not take this one letter, a few times. Then the letter is passed over, and the others go on. Sending must do no harm twice: a
server may have taken a letter and died before it said so.
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
UNTIL_IT_MAY = 0.1  # seconds between two looks at a letter that may not go yet
TRIES = 4  # of a letter that is not taken by a server that answers; of the next ones, a single try
LATER = ("is locked", "is full", "No space left")  # what a database says that takes nothing now
FILES_GIVEN_UP = 3  # files in a row that were not taken, after which none is tried any more


@dataclass(frozen=True)
class Letter:
    """What is to be sent, and the trial that it is about; a file goes to a store of its own, which may not be there. It waits
    until it `may_go`."""

    send: Send
    about: str = ""
    is_file: bool = False
    may_go: Callable[[], bool] = lambda: True


class Delivery:
    """Sends what is put into it. `say` is told, once each time, that nothing gets through and that it does again; `answers`
    asks the server for anything at all, and raises where it is away."""

    def __init__(self, address: str, say: Callable[[str], None], answers: Send) -> None:
        self.secret, self.address = address, without_password(address)
        self.say, self.answers = say, answers
        self.waiting: deque[Letter] = deque()
        self.changed = threading.Condition()
        self.hurried = self.stopped = False
        self.pause = 0.0
        self.tries = 0  # of the letter that is sent now
        self.in_a_row = {False: 0, True: 0}  # letters that were passed over, of files and of others
        self.refused: list[tuple[Letter, str]] = []  # all that were passed over, and why
        self.thread = threading.Thread(target=self._work, name="delivery", daemon=True)
        self.thread.start()

    def put(
        self, send: Send, about: str = "", *, is_file: bool = False, may_go: Callable[[], bool] = lambda: True
    ) -> None:
        """Take a letter."""
        with self.changed:
            self.waiting.append(Letter(send, about, is_file, may_go))
            self.changed.notify_all()

    def lacks(self, about: str) -> str:
        """Why something about a trial was not taken; nothing where all was."""
        return next((reason for letter, reason in self.refused if letter.about == about), "")

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
                letter = self.waiting[0]
                if not letter.may_go():
                    self.changed.wait_for(lambda: self.stopped, UNTIL_IT_MAY)
                    continue
            done = self._try(letter)
            with self.changed:
                if done:
                    self.waiting.popleft()
                    self.tries = 0
                    self.changed.notify_all()
                else:
                    self.changed.wait_for(lambda: self.stopped, FIRST_PAUSE if self.hurried else self.pause)

    def _try(self, letter: Letter) -> bool:
        """Whether a letter needs no further try."""
        if letter.is_file and self.in_a_row[True] >= FILES_GIVEN_UP:
            self.refused.append((letter, self.refused[-1][1]))
            return True
        try:
            letter.send()
        except UserError:  # the ledger cannot be written: the search ends
            self.stopped = True
            return False
        except Exception as error:
            return self._not_taken(letter, error)
        if self.pause and not self.tries:
            self.say(f"MLflow at {self.address} answers again")
        self.pause = 0.0
        self.in_a_row[letter.is_file] = 0
        return True

    def _not_taken(self, letter: Letter, error: Exception) -> bool:
        """Whether a letter is passed over; else it waits."""
        reason, for_good = why(error, self.secret), _is_for_good(error)
        if not for_good and (_says_later(letter, reason) or not self._answers()):
            if not self.pause or self.tries:
                self.say(f"MLflow at {self.address} did not answer ({reason}); its entries wait")
            self.tries = 0
        else:
            self.tries += 1
            if for_good or self.tries >= (1 if self.in_a_row[letter.is_file] else TRIES):
                self._pass_over(letter, reason)
                return True
        self.pause = min(LONGEST_PAUSE, 2 * self.pause or FIRST_PAUSE)
        return False

    def _answers(self) -> bool:
        try:
            self.answers()
        except Exception:
            return False
        return True

    def _pass_over(self, letter: Letter, reason: str) -> None:
        if all(reason != known for _, known in self.refused) and not (letter.is_file and self.in_a_row[True]):
            what = "a file" if letter.is_file else "an entry"
            self.say(f"MLflow at {self.address} refused {what} ({reason}); it goes on without")
        self.refused.append((letter, reason))
        self.in_a_row[letter.is_file] += 1
        self.pause = 0.0


def _is_for_good(error: Exception) -> bool:
    return isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"


def _says_later(letter: Letter, reason: str) -> bool:
    """Whether what refuses a letter ends, and refuses all others too."""
    return not letter.is_file and any(sign in reason for sign in LATER)
