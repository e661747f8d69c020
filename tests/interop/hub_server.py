"""A Hugging Face hub on loopback, with as much of its interface as a download asks for."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

COMMIT = "c" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Serves folders as models and remembers which files were fetched."""

    def __init__(self, models: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.models = models
        self.fetched: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        for name, folder in self.server.models.items():
            files = sorted(folder.iterdir())
            if path.startswith(f"/api/models/{name}/tree/"):
                sizes = {file.name: file.stat().st_size for file in files}
                entries = [{"type": "file", "path": name, "size": size} for name, size in sizes.items()]
                return self._send_json([entry | {"oid": "0" * 40} for entry in entries])
            if path.startswith(f"/api/models/{name}"):
                revision = path.partition("/revision/")[2] or "main"
                if revision not in ("main", "v1", COMMIT):
                    return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                siblings = [{"rfilename": file.name} for file in files]
                return self._send_json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False})
            if path.startswith(f"/{name}/resolve/"):
                data = (folder / path.rpartition("/")[2]).read_bytes()
                if with_body:
                    self.server.fetched.append(path.rpartition("/")[2])
                etag = hashlib.sha256(data).hexdigest()
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
                return self._send(200, data, headers, with_body=with_body)
        return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})

    def _send_json(self, answer: dict | list) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], *, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@contextlib.contextmanager
def serve(models: Mapping[str, Path]) -> Iterator[Hub]:
    """Runs a hub until the block ends."""
    with Hub(models) as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
