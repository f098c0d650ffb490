"""A stand-in for a W&B server on the loopback: it keeps what runs send, and answers `wandb.Api` from that."""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "me"
USER = {"id": "U", "name": ENTITY, "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
LAST_PAGE = {"endCursor": None, "hasNextPage": False}


class WandbServer(ThreadingHTTPServer):
    """Knows one user and any number of runs.

    Attributes:
        runs: by id, the fields they were made with, ``history`` (JSON lines), ``summary`` and ``state``.
        stored: uploaded files by address.
        artifacts: what `createArtifact` was told, in order; an artifact's id is its place, from 1.
        used: pairs of a run's id and the id of an artifact it used.
        errors: of the server itself.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.used: list[tuple[str, str]] = []
        self.errors: list[BaseException | None] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong for the test to see; that a client hangs up at its end is no error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.errors.append(error)

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Take a piece of a run's history and summary, and its end."""
        run, files = self.runs[run_id], sent.get("files") or {}
        if "wandb-history.jsonl" in files:
            rows = files["wandb-history.jsonl"]
            run["history"][rows["offset"] :] = rows["content"]
        if "wandb-summary.json" in files:
            run["summary"] = files["wandb-summary.json"]["content"][-1]
        if sent.get("complete"):
            run["state"] = "finished" if sent["exitcode"] == 0 else "failed"

    def in_project(self, given: dict[str, Any], found: dict[str, Any] | None) -> dict[str, Any]:
        """Wrap what belongs to one run."""
        run = found if given.get("name", given.get("run")) in self.runs else None
        return {"project": {"internalId": "1", "run": run}}

    def answer(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL operation; of an unknown one nothing is known."""
        method = getattr(self, f"on_{name}", None)
        return method(given) if method else {}

    def on_Viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {**USER, "teams": {"edges": []}}}

    on_GetDefaultEntity = on_Viewer

    def on_ServerFeaturesQuery(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        project = {"id": "P", "name": given["project"], "entity": {"id": "E", "name": ENTITY}}
        if run is None:
            return {"model": {**project, "bucket": None}}
        tail = json.dumps(run["history"][-1:])
        bucket = {"id": given["name"], "name": given["name"], "summaryMetrics": run["summary"], "config": run["config"]}
        bucket |= {"displayName": run["displayName"], "tags": run["tags"], "notes": None, "wandbConfig": '{"t": 1}'}
        bucket |= {"historyLineCount": len(run["history"]), "historyTail": tail, "logLineCount": 0}
        bucket |= {"eventsLineCount": 0, "eventsTail": "[]"}
        return {"model": {**project, "bucket": bucket}}

    def on_UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        inserted = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], {"history": [], "summary": "{}", "state": "running", "tags": []})
        run.update({key: value for key, value in given.items() if value is not None})
        project = {"id": "P", "name": given["project"], "entity": {"id": "E", "name": ENTITY}}
        bucket = {"id": given["name"], "name": given["name"], "displayName": run.get("displayName"), "project": project}
        bucket |= {"config": run["config"], "description": "", "sweepName": None}
        return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run["history"])}, "inserted": inserted}}

    def on_CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def on_CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(given["input"])
        artifact_id = str(len(self.artifacts))
        # "Committed" at once: its files are known already, so none is sent.
        artifact = {
            "id": artifact_id,
            "state": "COMMITTED",
            "artifactSequence": {"latestArtifact": {"id": artifact_id}},
        }
        return {"createArtifact": {"artifact": artifact}}

    def on_UseArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.used.append((given["runName"], given["artifactID"]))
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def on_ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def node(self, run_id: str) -> dict[str, Any]:
        """Describe a run as `wandb.Api` asks for it."""
        run = self.runs[run_id]
        node = {"id": run_id, "name": run_id, "projectId": "1", "user": {"name": ENTITY, "username": ENTITY}}
        node |= {key: run.get(key) for key in ("displayName", "state", "config", "jobType", "tags", "sweepName")}
        node |= {"group": run.get("groupName"), "summaryMetrics": run["summary"], "systemMetrics": "{}"}
        node |= {"historyLineCount": len(run["history"]), "historyKeys": None, "readOnly": False}
        return node | dict.fromkeys(("createdAt", "heartbeatAt", "commit", "description", "notes"))

    def on_Run(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.in_project(given, self.node(given["name"]) if given["name"] in self.runs else None)

    def on_Runs(self, given: dict[str, Any]) -> dict[str, Any]:
        group = json.loads(given["filters"])["group"]
        names = [name for name, run in self.runs.items() if run.get("groupName") == group]
        edges = [{"node": self.node(name), "cursor": name} for name in names]
        runs = {"totalCount": len(names), "edges": edges, "pageInfo": LAST_PAGE}
        return {"project": {"internalId": "1", "runCount": len(names), "readOnly": False, "runs": runs}}

    def on_RunFullHistory(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.in_project(given, {"history": self.runs[given["name"]]["history"][: given["samples"]]})

    def on_RunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        place = f"/storage/{given['name']}/"
        names = [path.removeprefix(place) for path in self.stored if path.startswith(place)]
        edges = []
        for name in names:
            if not given["fileNames"] or name in given["fileNames"]:
                url, size = self.url + place + name, len(self.stored[place + name])
                node = {"id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": size}
                edges.append({"node": node | dict.fromkeys(("md5", "mimetype", "updatedAt"), ""), "cursor": name})
        return self.in_project(given, {"fileCount": len(edges), "files": {"edges": edges, "pageInfo": LAST_PAGE}})

    def on_RunOutputArtifacts(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for i, artifact in enumerate(self.artifacts):
            if artifact["runName"] != given["run"]:
                continue
            project = {"id": "P", "internalId": "1", "name": given["project"], "entity": {"name": ENTITY}}
            collection = {"name": artifact["artifactCollectionName"], "project": project}
            node = {"__typename": "Artifact", "id": str(i + 1), "versionIndex": i, "state": "COMMITTED", "size": 1}
            node |= {"artifactSequence": {"__typename": "ArtifactSequence", **collection}, "fileCount": 1, "tags": []}
            node |= {"artifactType": {"name": artifact["artifactTypeName"]}, "metadata": artifact["metadata"]}
            node |= {"digest": artifact["digest"], "createdAt": "2026-01-01T00:00:00Z", "aliases": []}
            node |= {"ttlDurationSeconds": -1, "ttlIsInherited": False, "description": None, "historyStep": None}
            edges.append({"node": node | {"commitHash": "", "updatedAt": None}})
        return self.in_project(given, {"artifacts": {"totalCount": len(edges), "pageInfo": LAST_PAGE, "edges": edges}})


class Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

    def do_GET(self) -> None:
        self.reply(self.server.stored.get(self.path, b"{}"))

    def do_PUT(self) -> None:
        self.server.stored[self.path] = self.body()
        self.reply(b"{}")

    def do_POST(self) -> None:
        body, answer = self.body(), {}
        if self.path == "/graphql":
            asked = json.loads(body)
            matched = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            assert matched
            answer = {"data": self.server.answer(matched[1], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body))
        self.reply(json.dumps(answer).encode())


@contextmanager
def serving() -> Iterator[WandbServer]:
    """Serve until the block ends."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert server.errors == [], server.errors
