#!/usr/bin/env bash
# The hub's client keeps nothing of a file whose download was interrupted: the next call fetches all of its bytes again.
#
# Guessed: `hf_hub_download` leaves `blobs/HASH.incomplete` in the cache and the next call asks for the bytes that are missing, as it did for
# years and as its message "Trying to resume download..." says.
# Seen (huggingface_hub 2.4.0, plain HTTP): the message is about attempts within one call, and those do go on. When the call ends without the
# file, the temporary file, whose name is new in every call, is deleted: nothing is in `blobs`, and the next call asks for byte 0. Of a file
# of 40 MiB that broke off at its half, 60 MiB come over the line. A folder (`snapshot_download`) keeps the files that were complete.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet huggingface_hub==2.4.0
export HF_HOME=$work/cache HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HUB_DISABLE_XET=1
"$work/venv/bin/python" - 2> /dev/null <<'PYTHON'
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from huggingface_hub import hf_hub_download

CONTENT = bytes(40 * 2**20)
left, ranges, sent = len(CONTENT) // 2, [], 0


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.start(0)

    def do_GET(self) -> None:
        global left, sent
        asked = self.headers.get("range")
        ranges.append(asked)
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.start(first)
        part = CONTENT[first : first + left] if left < len(CONTENT) else CONTENT[first:]
        self.wfile.write(part)
        sent += len(part)
        if first + len(part) < len(CONTENT):
            left = 0
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def start(self, first: int) -> None:
        self.send_response(206 if first else 200)
        self.send_header("content-length", str(len(CONTENT) - first))
        self.send_header("etag", '"0123"')
        self.send_header("x-repo-commit", "0" * 40)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
where = {"repo_id": "org/name", "filename": "net.bin", "endpoint": f"http://127.0.0.1:{server.server_port}"}
try:
    hf_hub_download(**where)
    raise SystemExit("expected the download to end with an error")
except Exception as error:
    print("first call:", type(error).__name__)
print("asked for:", ranges)
assert ranges[0] is None and set(ranges[1:]) == {f"bytes={len(CONTENT) // 2}-"}, ranges
blobs = sorted(path.name for path in Path(os.environ["HF_HOME"]).rglob("blobs/*"))
print("in the cache:", blobs)
assert blobs == []
left, count = len(CONTENT), len(ranges)
assert Path(hf_hub_download(**where)).read_bytes() == CONTENT
print("second call asked for:", ranges[count:], "- sent in all:", sent)
assert ranges[count:] == [None] and sent == len(CONTENT) * 3 // 2
PYTHON
echo "as seen"
