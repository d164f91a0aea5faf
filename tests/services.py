"""PostgreSQL, an S3 store and an MLflow server on loopback: `python -m tests.services` runs them and prints their environment."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server import Server, free_port
from tests.waiting import wait_until

BUCKET = "searches"
ACCOUNT = "postgres"  # of Debian's package: PostgreSQL does not run as root


class PostgreSQL:
    """A database of its own, made with the programs of Debian's package `postgresql`; its password is drawn by lot."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gpt2-search-postgresql-"))
        self.port, password = free_port(), secrets.token_hex(16)
        self.uri = f"postgresql+pg8000://mlflow:{password}@127.0.0.1:{self.port}/postgres"
        self.user = ACCOUNT if os.getuid() == 0 else None
        (self.folder / "password").write_text(password)
        if self.user:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, self.user)
        data = self.folder / "data"
        login = ["--username", "mlflow", "--pwfile", str(self.folder / "password"), "--auth", "scram-sha-256"]
        self._run("initdb", "--pgdata", str(data), "--no-sync", *login)
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "start", "--wait", "--pgdata", str(data), "--log", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode", "immediate", "--pgdata", str(self.folder / "data"))
        shutil.rmtree(self.folder)

    def _run(self, program: str, *words: str) -> None:
        found = shutil.which(program) or next(iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))), None)
        assert found, f"{program} is not installed: apt-get install postgresql"
        subprocess.run([str(found), *words], user=self.user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)


class Store:
    """A store that speaks S3, with one bucket, in the memory of a process: moto's server. `kind` is one of `tests.s3`."""

    def __init__(self, folder: Path, kind: str = "") -> None:
        self.port = free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "a-key-of-the-tests",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_REGION": "us-east-1",
        }
        with (folder / "store.txt").open("w") as log:
            words = [sys.executable, "-m", "tests.s3", str(self.port), kind]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=Path(__file__).parent.parent)
        wait_until(self._made, self.process, (folder / "store.txt").read_text)

    def _made(self) -> bool:
        request = urllib.request.Request(f"{self.environment['AWS_ENDPOINT_URL']}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def started(make: Callable[[], PostgreSQL | Store]) -> Iterator[PostgreSQL | Store]:
    service = make()
    try:
        yield service
    finally:
        service.stop()


def main() -> None:
    """Start all, say how they are used, and wait for Ctrl-C."""
    folder = Path(tempfile.mkdtemp(prefix="gpt2-search-services-"))
    database, store = PostgreSQL(), Store(folder)
    artifacts = f"s3://{BUCKET}/mlflow"
    server = Server(folder, database=database.uri, artifacts=artifacts, environment=store.environment, workers=2)
    try:
        server.wait()
        places = {"GPT2_SEARCH_STORAGE": f"s3://{BUCKET}/storage", "MLFLOW_TRACKING_URI": server.uri}
        for name, value in {**store.environment, **places}.items():
            print(f"export {name}={value}", flush=True)
        signal.sigwait([signal.SIGINT, signal.SIGTERM])
    finally:
        server.kill()
        store.stop()
        database.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
