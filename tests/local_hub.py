"""A hub on this machine: serves folders as `owner/name`, as huggingface_hub asks for them.

Only what a download needs: a repository's description, its list of files, and a file. Nothing is checked.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

COMMIT = "c" * 40


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


class _Hub(BaseHTTPRequestHandler):
    root: ClassVar[Path]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *_: object) -> None:
        """Tests want no log."""

    def _answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._listing("/".join(parts[2:4]), parts[4:], body)
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), "/".join(parts[4:]), body)
        else:
            self._missing("EntryNotFound")

    def _listing(self, name: str, rest: list[str], body: bool) -> None:
        """A repository's description (`revision/REV` or nothing), or its tree (`tree/REV`)."""
        folder = self.root / name
        if not folder.is_dir():
            return self._missing("RepoNotFound")
        if len(rest) > 2 or rest[:1] not in ([], ["revision"], ["tree"]):
            return self._missing("EntryNotFound")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        document: object = {
            "id": name,
            "modelId": name,
            "sha": COMMIT,
            "tags": [],
            "siblings": [{"rfilename": str(path.relative_to(folder))} for path in files],
        }
        if rest[:1] == ["tree"]:
            document = [
                {
                    "type": "file",
                    "path": str(path.relative_to(folder)),
                    "size": path.stat().st_size,
                    "oid": _digest(path.read_bytes()),
                }
                for path in files
            ]
        return self._send(json.dumps(document).encode(), body, "application/json")

    def _file(self, name: str, file: str, body: bool) -> None:
        if not (self.root / name).is_dir():
            return self._missing("RepoNotFound")
        path = self.root / name / file
        return self._send(path.read_bytes(), body) if path.is_file() else self._missing("EntryNotFound")

    def _send(self, content: bytes, body: bool, kind: str = "application/octet-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_digest(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code}: {self.path}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """The address of a hub of the repositories `root/owner/name`, as long as the block runs."""
    handler = type("_Hub", (_Hub,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
