"""Storage servers on loopback: Google's emulator with preconditions and generations added, and moto's S3.

Both can be stopped and started again on the same port, with what they hold. `python -m tests.bucket_servers` serves
both until it is interrupted, to try things by hand.
"""

import abc
import json
import re
import threading
from email.message import Message
from functools import partial
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

BUCKET = "bucket"

_METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE")


class _Handler(RequestHandler):
    """The emulator's, one request at a time, with `ifGenerationMatch`, and with binary content left as it is."""

    lock = threading.Lock()

    def _answer(self) -> None:
        with self.lock:
            refusal = self.server.refuses.get(self.command)  # pyright: ignore[reportAttributeAccessIssue]
            if refusal:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._error(refusal, "refused by the test")
                return
            upload = self._two_parts() if "uploadType=multipart" in self.path else None
            if self._precondition_fails(upload):
                self._error(412, "conditionNotMet")
            elif upload:
                self._store(*upload)
            else:
                getattr(super(), f"do_{self.command}")()

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - the base class's names

    def _precondition_fails(self, upload: tuple[str, bytes] | None) -> bool:
        query = parse_qs(urlparse(self.path).query)
        if "upload_id" in query or not {"ifGenerationMatch", "generation"} & query.keys():
            return False
        bucket, name = re.search(r"/b/([^/]+)/o(?:/([^?]+))?", self.path).groups()  # pyright: ignore
        try:
            whose = upload[0] if upload else unquote(name) if name else query["name"][0]
            now = self.storage.get_file_obj(bucket, whose)["generation"]
        except NotFound:
            now = "0"
        wanted = query.get("ifGenerationMatch", query.get("generation", [""]))[0]
        return wanted != now

    def _two_parts(self) -> tuple[str, bytes]:
        """An upload's name and content; the emulator would read it as a mail, and lose a last carriage return."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header = Message()
        header["Content-Type"] = self.headers["Content-Type"]
        boundary = b"--" + str(header.get_param("boundary")).encode()
        _, about, rest = body.split(boundary, 2)  # the content may hold the boundary
        content = rest.rpartition(boundary)[0]
        name = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])["name"]
        data = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
        return name, data.removesuffix(b"\n")

    def _store(self, name: str, data: bytes) -> None:
        found = re.search(r"/b/([^/]+)/o", self.path)
        assert found is not None
        about = _make_object_resource("", found[1], name, "application/octet-stream", str(len(data)))
        try:
            self.storage.create_file(found[1], name, data, _checksums(data, about))
        except NotFound:
            self._error(404, "no such bucket")
        else:
            self._send(200, about)

    def _error(self, status: int, message: str) -> None:
        self._send(status, {"error": {"code": status, "message": message}})

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _GcsServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave before their answer."""


class BucketServer(abc.ABC):
    """A storage server that holds `BUCKET`; `scheme`://BUCKET/... are its objects once `environment` is set."""

    scheme: str

    def __init__(self) -> None:
        self.port = 0
        self._server: Any = None

    def start(self) -> None:
        """Serves, on the same port as before."""
        self._server = self._make()
        self._server.refuses = {}
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections; what is held stays."""
        self._server.shutdown()
        self._server.server_close()

    def refuse(self, status: int | None, methods: tuple[str, ...] = _METHODS) -> None:
        """Answers requests with a status, or again as they should be answered."""
        self._server.refuses = {} if status is None else dict.fromkeys(methods, status)

    def url(self, name: str) -> str:
        """The path of an object or a folder."""
        return f"{self.scheme}://{BUCKET}/{name}"

    @property
    @abc.abstractmethod
    def environment(self) -> dict[str, str]:
        """Environment variables that lead the clients here."""

    @abc.abstractmethod
    def _make(self) -> Any: ...


class GcsServer(BucketServer):
    scheme = "gs"

    def __init__(self) -> None:
        super().__init__()
        self._storage = Storage(use_memory_fs=True)
        create_bucket(BUCKET, self._storage)

    @property
    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}", "NO_GCE_CHECK": "true"}

    def _make(self) -> _GcsServer:
        return _GcsServer(("127.0.0.1", self.port), partial(_Handler, self._storage))


class S3Server(BucketServer):
    scheme = "s3"

    def __init__(self) -> None:
        super().__init__()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        first = self._server is None
        super().start()
        if first:
            import urllib.request

            place = f"http://127.0.0.1:{self.port}/{BUCKET}"
            urllib.request.urlopen(urllib.request.Request(place, method="PUT"), timeout=60).close()

    def _make(self) -> BaseWSGIServer:
        def app(environ: Any, respond: Any) -> Any:
            if refusal := self._server.refuses.get(environ["REQUEST_METHOD"]):
                respond(f"{refusal} Refused", [("Content-Length", "0")])
                return [b""]
            with self._lock:  # moto looks, and then writes
                return list(self._app(environ, respond))

        return make_server("127.0.0.1", self.port, app, threaded=True, request_handler=MotoRequestHandler)


def main() -> None:
    """Serves both, and prints what leads clients here."""
    for server in (GcsServer(), S3Server()):
        server.start()
        for name, value in server.environment.items():
            print(f"export {name}={value}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
