"""A hub on this machine: what a client asks of it, from the files of a folder, with a count of the bytes it sends."""

import contextlib
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


class Hub:
    """One repository, `org/name`, of the files in a folder; any other does not exist, `org/private` needs a token."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.sent, self.asked = 0, list[str]()
        self.left = sys.maxsize  # bytes of files that are sent before every connection breaks


@contextlib.contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    """Serve a folder as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.answer(body=True, sent=self.rfile.read(length).decode())

        def log_message(self, *words: object) -> None:
            """Nobody reads it."""

        def answer(self, *, body: bool, sent: str = "") -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path} {self.headers.get('range') or ''}".strip())
            parts = path.split("/")
            if path.startswith("files/"):
                return self.send_file(hub.folder / path.removeprefix("files/"), body)
            if "private" in parts:
                return self.send_json({"error": "Invalid credentials"}, 401, {"X-Error-Code": "RepoNotFound"})
            if parts[:3] == ["api", "models", "org"] and parts[3:4] == ["name"]:
                return self.send_api(parts[4:], sent)
            if parts[:3] == ["org", "name", "resolve"] and parts[3] in REVISIONS:
                return self.send_file(hub.folder.joinpath(*parts[4:]), body)
            return self.send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        def send_api(self, rest: list[str], sent: str) -> None:
            files = sorted(path for path in hub.folder.rglob("*") if path.is_file())
            names = [str(path.relative_to(hub.folder)) for path in files]
            if rest[:1] == ["tree"]:
                place = hub.folder.joinpath(*rest[2:])
                found = place.rglob("*") if "recursive=true" in self.path.lower() else place.glob("*")
                return self.send_json([entry(hub.folder, str(p.relative_to(hub.folder))) for p in sorted(found)])
            if rest[:1] == ["paths-info"]:
                wanted = parse_qs(sent).get("paths") or json.loads(sent or "{}").get("paths", [])
                return self.send_json([entry(hub.folder, name) for name in wanted if (hub.folder / name).exists()])
            if rest[:1] == ["revision"] and rest[1] not in REVISIONS:
                return self.send_json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in names]
            return self.send_json({"id": "org/name", "sha": COMMIT, "private": False, "siblings": siblings})

        def send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            for name, held in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(name, held)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)
                hub.sent += len(text)

        def send_file(self, path: Path, body: bool) -> None:
            if not path.is_file():
                return self.send_json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            size = path.stat().st_size
            start, stop = 0, size
            if wanted := self.headers.get("range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(int(last or size - 1) + 1, size)
            self.send_response(206 if wanted else 200)
            self.send_header("content-length", str(stop - start))
            self.send_header("content-range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("accept-ranges", "bytes")
            self.send_header("etag", f'"{etag_of(path)}"')
            self.send_header("x-repo-commit", COMMIT)
            self.end_headers()
            if body:
                with path.open("rb") as file, contextlib.suppress(ConnectionError):
                    file.seek(start)
                    while start < stop:
                        held = file.read(min(1 << 16, stop - start, hub.left))
                        self.wfile.write(held)
                        hub.sent, start = hub.sent + len(held), start + len(held)
                        hub.left -= len(held)
                        if not hub.left:
                            self.connection.shutdown(socket.SHUT_RDWR)
                            self.close_connection = True
                            break
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = Hub(folder, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def etag_of(path: Path) -> str:
    """Of what is in a file, as the hub has it; of a large one of its name and size, which takes no time."""
    size = path.stat().st_size
    held = path.read_bytes() if size < 1 << 26 else f"{path} {size}".encode()
    return hashlib.sha256(held).hexdigest() if size < 1 << 26 else hashlib.sha1(held).hexdigest()


def entry(folder: Path, name: str) -> dict[str, object]:
    """What the hub says of a file or folder."""
    path = folder / name
    oid = hashlib.sha1(name.encode()).hexdigest()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": oid, "size": 0}
    return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}
