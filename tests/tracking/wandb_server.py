"""A stand-in for W&B's server that keeps what the real client uploads, line by line."""

import contextlib
import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.serving import serving

KEY = "0123456789" * 4  # of the right format
SWEEP = "swe3p1dx"


class Server(ThreadingHTTPServer):
    """Runs by their ids.

    Attributes:
        rows: each run's history by line number; a client that restarts at line 0 replaces them.
        summaries: each run's, as last uploaded.
        names: project, entity and display name of each run.
        artifacts: type and collection of each.
        sweeps: the sweep of each run that is of one.
        sweep: the configuration of the one sweep, as YAML.
        points: what its agent is still to run, each a value by key; then it is to leave.
        refuse: answer with this status instead.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.names: dict[str, tuple[str, str, str]] = {}
        self.configs: dict[str, str] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.artifacts: list[tuple[str, str]] = []
        self.sweeps: dict[str, str] = {}
        self.sweep = ""
        self.points: list[dict[str, Any]] = []
        self.refuse: int | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def history(self, run_id: str, key: str = "trainer/global_step") -> list[Any]:
        """A metric's values in the order of the run's history."""
        rows = self.rows[run_id]
        assert sorted(rows) == list(range(len(rows)))
        return [rows[line][key] for line in sorted(rows) if key in rows[line]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up when they are done."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Do not print in the tests."""

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length")
        if length is not None:
            body = self.rfile.read(int(length))
        else:
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with contextlib.suppress(ValueError):
            content = json.loads(body)
            if isinstance(content, dict):
                return content
        return {}

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.server.refuse is not None:
            self._answer({}, self.server.refuse)
        elif self.path.endswith("/file_stream"):
            self._answer(self._stream(self.path.split("/")[-2], body.get("files") or {}))
        else:
            query, variables = body.get("query", ""), body.get("variables", {})
            found = re.search(r"(?:query|mutation)\s+(\w+)", query)
            with self.server.lock:
                self._answer({"data": self._graphql(found[1] if found else "", variables)})

    def _stream(self, run_id: str, files: dict[str, Any]) -> dict[str, Any]:
        if (summary := files.get("wandb-summary.json")) is not None:
            with self.server.lock:
                self.server.summaries[run_id] = json.loads(summary["content"][-1])
        part = files.get("wandb-history.jsonl")
        if part is not None:
            with self.server.lock:
                rows = self.server.rows.setdefault(run_id, {})
                for number, line in enumerate(part["content"]):
                    rows[part["offset"] + number] = json.loads(line)
        return {"exitcode": None, "limits": {}}

    def _graphql(self, operation: str, v: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        if operation == "UpsertBucket":
            run_id, entity = v["name"], v.get("entity") or "me"
            if v.get("displayName"):
                server.names[run_id] = (v["project"], entity, v["displayName"])
            if v.get("sweep"):
                server.sweeps[run_id] = v["sweep"]
            server.configs[run_id] = v.get("config") or server.configs.get(run_id, "{}")
            bucket = {
                "id": "aWQ=", "name": run_id, "displayName": v.get("displayName") or run_id,
                "description": None, "config": server.configs[run_id], "sweepName": None,
                "historyLineCount": len(server.rows.get(run_id, {})),
                "project": project(v["project"], entity),
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "RunResumeStatus":
            bucket = self._status(v["name"]) if v["name"] in server.configs else None
            return {"model": {"id": "m", "name": v["project"],
                              "entity": {"id": "e", "name": "me"}, "bucket": bucket}}  # fmt: skip
        if operation == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{server.url}/files/{n}"} for n in v["files"]]
            return {"createRunFiles": {"runID": "aWQ=", "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            given = v["input"]
            server.artifacts.append((given["artifactTypeName"], given["artifactCollectionName"]))
            known = {"id": "YQ==", "state": "COMMITTED",  # so nothing has to be uploaded
                     "artifactSequence": {"id": "cw==", "latestArtifact": None}}  # fmt: skip
            return {"createArtifact": {"artifact": known}}
        if operation in ("UpsertSweep", "SweepWithRuns", "CreateAgent", "Heartbeat"):
            return self._sweep(operation, v)
        if operation.startswith("Viewer"):
            return {"viewer": {"id": "dQ==", "entity": "me", "username": "me", "flags": "{}",
                               "teams": {"edges": []}}}  # fmt: skip
        return {}

    def _sweep(self, operation: str, v: dict[str, Any]) -> dict[str, Any]:
        """What `wandb sweep` and `wandb agent` ask."""
        server = self.server
        if operation == "UpsertSweep":
            server.sweep = v["config"]
            made = {"name": SWEEP, "project": project(v["projectName"], "me")}
            return {"upsertSweep": {"sweep": made, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            found = {"config": server.sweep, "runs": {"edges": []}}
            return {"project": {"sweep": found}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": v["sweep"]}}}
        command: dict[str, Any] = {"type": "exit"}
        if server.points:
            args = {key: {"value": value} for key, value in server.points.pop(0).items()}
            command = {"type": "run", "run_id": f"point{len(server.points)}", "program": "",
                       "args": args}  # fmt: skip
        commands = [] if json.loads(v["runState"]) else [command]
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def _status(self, run_id: str) -> dict[str, Any]:
        rows = self.server.rows.get(run_id, {})
        tail = [json.dumps(rows[max(rows)])] if rows else []
        return {
            "id": "aWQ=", "name": run_id, "displayName": run_id, "tags": [],
            "config": self.server.configs[run_id], "wandbConfig": json.dumps({"t": 1}),
            "historyLineCount": len(rows), "historyTail": json.dumps(tail),
            "eventsLineCount": 0, "eventsTail": "[]", "logLineCount": 0,
            "summaryMetrics": json.dumps(self.server.summaries.get(run_id, {})),
        }  # fmt: skip


def project(name: str, entity: str) -> dict[str, Any]:
    return {"id": "cA==", "name": name, "entity": {"id": "ZQ==", "name": entity}}


@contextlib.contextmanager
def wandb_server() -> Iterator[Server]:
    with Server() as server, serving(server):
        yield server


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
