"""The HTTP endpoint of a pod: `/metrics` for Prometheus, `/progress` for the operator.

The first rank of each node serves `/metrics`; rank 0 serves `/progress` too. Nothing here can end a training: whether
anybody asks changes nothing.
"""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from finetune_contract import names
from finetune_trainer.pod.metrics import Metrics
from finetune_trainer.pod.record_keeper import RecordKeeper


class Endpoint:
    """Serves from a thread of its own.

    Args:
        keeper: None where there is no `/progress`.
        port: that of `FINETUNE_METRICS_PORT` unless given.
    """

    def __init__(self, metrics: Metrics, keeper: RecordKeeper | None, port: int | None = None) -> None:
        self.port = int(os.environ.get(names.ENV_METRICS_PORT, names.PORT_METRICS)) if port is None else port
        self._handler = _handler(metrics, keeper)
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "Endpoint":
        try:
            self._server = ThreadingHTTPServer(("", self.port), self._handler)
        except OSError as error:
            print(f"no metrics: port {self.port} cannot be served ({error}); training continues", flush=True)
            return self
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()


def _handler(metrics: Metrics, keeper: RecordKeeper | None) -> type[BaseHTTPRequestHandler]:
    def answers(path: str) -> tuple[str, bytes] | None:
        if path == "/metrics":
            return CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
        if path == "/progress" and keeper is not None:
            return "application/json", keeper.record.model_dump_json(by_alias=True, exclude_none=True).encode()
        return None

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a client that never finishes its request does not hold a thread for longer

        def do_GET(self) -> None:
            answer = answers(self.path)
            kind, body = answer or ("text/plain", b"/metrics, and /progress on rank 0\n")
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A scrape is not worth a log line."""

    return Handler
