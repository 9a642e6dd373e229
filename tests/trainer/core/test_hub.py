"""A model of the hub is listed at its commit and read in parts, before any of it is downloaded."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune_contract.jobspec import Model
from finetune_trainer.errors import ConfigurationError, Transient
from finetune_trainer.model import headers, hub, pins
from finetune_trainer.model.places import HubPlace
from tests.trainer.models import save_tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as is asked for."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        if self.path.startswith("/api/models/org/name"):
            self._send(json.dumps(self._info()).encode())
        elif found := re.fullmatch(rf"/org/name/resolve/{COMMIT}/([^/?]+)", self.path):
            self._send((self.folder / found[1]).read_bytes())
        else:
            busy = "busy" in self.path
            self._send(b"", status=503 if busy else 404, more={} if busy else {"X-Error-Code": "RepoNotFound"})

    def _info(self) -> dict[str, object]:
        files = [
            {
                "rfilename": path.name,
                "size": path.stat().st_size,
                "blobId": "b" * 40,
                **(
                    {"lfs": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": 1, "pointerSize": 1}}
                    if path.suffix == ".safetensors"
                    else {}
                ),
            }
            for path in sorted(self.folder.iterdir())
        ]
        return {"id": "org/name", "sha": COMMIT, "siblings": [*files, {"rfilename": "onnx/model.onnx", "size": 1}]}

    def _send(self, data: bytes, status: int = 200, more: dict[str, str] | None = None) -> None:
        if status == 200 and (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            first, last = int(wanted[1]), int(wanted[2])
            status, data = (206, data[first : last + 1]) if first < len(data) else (416, b"")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    from huggingface_hub import constants

    class Served(_Hub):
        pass

    Served.folder, Served.asked = save_tiny_model(tmp_path / "model"), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Served
    server.shutdown()
    server.server_close()
    thread.join()


def _model(source: str = "hf://org/name") -> Model:
    return Model(source=source, trust_remote_code=False)


def test_headers_are_read_by_ranges_at_the_commit(served: type[_Hub]) -> None:
    place = HubPlace("hf://org/name", hub.snapshot(_model()))
    found = headers.read_weights(place)
    assert found.files == ("model.safetensors",)
    assert found.shapes is not None
    assert found.shapes["model.embed_tokens.weight"] == (400, 32)
    reads = [line for line in served.asked if "resolve" in line]
    assert all(f"resolve/{COMMIT}/model.safetensors bytes=" in line for line in reads)
    assert place.read("config.json", 1 << 30, 8) == b""


def test_the_pin_has_the_commit_and_every_digest(served: type[_Hub]) -> None:
    place = HubPlace("hf://org/name", hub.snapshot(_model()))
    pinned = pins.pinned_base(place, ("model.safetensors",))
    weights = hashlib.sha256((served.folder / "model.safetensors").read_bytes()).hexdigest()
    assert pinned.commit == COMMIT
    assert {file.name: file.digest for file in pinned.files} == {
        "chat_template.jinja": f"git:{'b' * 40}",
        "config.json": f"git:{'b' * 40}",
        "generation_config.json": f"git:{'b' * 40}",
        "model.safetensors": f"sha256:{weights}",
        "tokenizer.json": f"git:{'b' * 40}",
        "tokenizer_config.json": f"git:{'b' * 40}",
    }


def test_a_repository_that_is_not_there(served: type[_Hub]) -> None:
    with pytest.raises(ConfigurationError, match="is not on the hub, or is private"):
        hub.snapshot(_model("hf://org/other"))


def test_a_hub_that_does_not_answer_is_asked_again_later(served: type[_Hub]) -> None:
    with pytest.raises(Transient, match="cannot be downloaded"):
        hub.snapshot(_model("hf://org/busy"))
