"""A cluster of several nodes on this machine. Each has a cache of its own, so that nothing but the storage is shared."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from tests.runs import ROOT, python
from tests.waiting import PATIENCE, wait_until


class Nodes:
    """A head that has no CPUs for trials, and nodes that have."""

    def __init__(self, folder: Path, told: dict[str, str]) -> None:
        self.folder, self.told = folder, told
        head = {"num_cpus": 0, "env_vars": self._environment("head")}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: dict[str, Any] = {}
        self.commands: list[Command] = []

    def _environment(self, name: str) -> dict[str, str]:
        return {**self.told, "GPT2_SEARCH_CACHE": str(self.folder / name)}

    def add(self, name: str, **resources: int) -> None:
        self.nodes[name] = self.cluster.add_node(env_vars=self._environment(name), **resources)

    def kill(self, name: str) -> None:
        """Let a node be gone, all its processes at once."""
        node = self.nodes.pop(name)
        processes = processes_of(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for process in processes:
            process.wait()

    def take_away(self, name: str, cloud: "Cloud") -> None:
        """Let the cloud say that it takes a node away, to the node's own watcher."""
        cloud.told = True
        told = {"GPT2_SEARCH_METADATA": cloud.address, "RAY_ADDRESS": self.cluster.address, "PYTHONPATH": str(ROOT)}
        done = python("-m", "cluster.preemption", "watch", self.nodes[name].node_id, **told)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout == "aws takes this machine away within 120 s\n"

    def trials(self, name: str) -> set[str]:
        """Trials that were on a node, by their folders in its cache."""
        return {path.name for path in (self.folder / name).glob("storage/s3/*/*/searches/*/trials/*") if path.is_dir()}

    def clear(self) -> None:
        """End what runs, let all nodes but the head be gone, and forget what they had."""
        for command in self.commands:
            command.process.kill()
            command.process.wait()
        for name in list(self.nodes):
            self.kill(name)
        for folder in self.folder.glob("*/storage"):
            shutil.rmtree(folder)

    def shutdown(self) -> None:
        processes = [process for node in self.cluster.list_all_nodes() for process in processes_of(node)]
        self.cluster.shutdown()
        for process in processes:
            process.wait()

    def start(self, words: list[str], cwd: Path = ROOT) -> "Command":
        own = {"RAY_ADDRESS": self.cluster.address, "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **self._environment("head"), **own}
        self.commands.append(Command(words, cwd, environment, self.folder / "output.txt"))
        return self.commands[-1]


def processes_of(node: Any) -> list[subprocess.Popen[bytes]]:
    return [info.process for infos in node.all_processes.values() for info in infos]


class Cloud:
    """The metadata services of AWS, version 2, and of Google Cloud, as a spot machine sees them."""

    def __init__(self) -> None:
        self.told, cloud = False, self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:  # named by the library
                self._answer(200 if self.path == "/latest/api/token" else 404, b"a token")

            def do_GET(self) -> None:
                if self.path == "/computeMetadata/v1/instance/preempted":
                    known = self.headers["Metadata-Flavor"] == "Google"
                    self._answer(200 if known else 403, b"TRUE" if cloud.told else b"FALSE")
                    return
                asked = self.path == "/latest/meta-data/spot/instance-action" and cloud.told
                known = self.headers["X-aws-ec2-metadata-token"] == "a token"
                self._answer(200 if asked and known else 404, b'{"action": "terminate"}')

            def _answer(self, status: int, text: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Command:
    def __init__(self, words: list[str], cwd: Path, environment: dict[str, str], output: Path) -> None:
        self.file = output
        with output.open("w") as file:
            self.process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=file, stderr=file)

    @property
    def output(self) -> str:
        return self.file.read_text()

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Wait for what other nodes do; fail where it ends before."""
        wait_until(reached, self.process, self.file.read_text)

    def ends(self) -> str:
        assert self.process.wait(timeout=PATIENCE) == 0, self.output
        return self.output
