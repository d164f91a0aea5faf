"""moto's store with S3's word on conditional writes: of two at once, one is taken. `python -m tests.s3 PORT [KIND]` starts it.

KIND is how another store treats conditions: it may pass over them (`ignores`), or say that it does not know them (`refuses`).
"""

import sys
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")
UNKNOWN = b"<Error><Code>NotImplemented</Code><Message>A header you provided is not implemented</Message></Error>"

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def one_at_a_time(app: App, kind: str) -> App:
    """The same store; moto alone looks and writes without a lock."""
    lock = Lock()

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] != "PUT" or not any(name in environment for name in CONDITIONS):
            return app(environment, start)
        if kind == "refuses":
            start("501 Not Implemented", [("Content-Type", "application/xml")])
            return [UNKNOWN]
        if kind == "ignores":
            for name in CONDITIONS:
                environment.pop(name, None)
        with lock:
            return app(environment, start)

    return answer


if __name__ == "__main__":
    port, kind = int(sys.argv[1]), (sys.argv[2:] or [""])[0]
    store = one_at_a_time(DomainDispatcherApplication(create_backend_app), kind)
    run_simple("127.0.0.1", port, store, threaded=True, request_handler=MotoRequestHandler)
