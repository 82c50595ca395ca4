"""Check the built site: no dead link, no page that a browser complains about: `python docs/check_site.py [SITE]`.

Links are followed from page to page, to anchors too. Where Chromium is installed every page is opened in it, wide and
as narrow as a phone, and nothing may be written to its console; elsewhere that part is left out, and said so.
"""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

SITE = Path(__file__).parent / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COMPLAINT = re.compile(r'CONSOLE[^"]*"(.*?)", source', re.DOTALL)
SIZES = ("1300,900", "400,800")


class Links(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect `href`, `src`, `id` and `name`."""
        for name, value in attributes:
            if value and name in ("href", "src"):
                self.addresses.append(value)
            elif value and name in ("id", "name"):
                self.anchors.add(value)


def links_of(page: Path) -> Links:
    """What a page links to."""
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


def dead_links(site: Path) -> list[str]:
    """Links to files or anchors that are not there; other sites are not asked."""
    pages = {page: links_of(page) for page in sorted(site.rglob("*.html"))}
    dead = []
    for page, links in pages.items():
        here = f"/{page.relative_to(site).as_posix()}"
        for address in links.addresses:
            if re.match(r"[a-z]+:|//", address):
                continue
            path, anchor = urldefrag(urljoin(here, address))
            target = site / unquote(path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                dead.append(f"{here}: {address}")
            elif anchor and target in pages and unquote(anchor) not in pages[target].anchors:
                dead.append(f"{here}: no {anchor} in {address}")
    return dead


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of a server of the site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def complaints(site: Path, browser: str) -> list[str]:
    """What a browser writes to its console, page by page."""
    found = []
    with served(site) as address, tempfile.TemporaryDirectory() as profile:
        for page in sorted(site.rglob("*.html")):
            place = page.relative_to(site).as_posix().removesuffix("index.html")
            for size in SIZES:
                words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
                words += [f"--user-data-dir={profile}", f"--window-size={size}", "--dump-dom", f"{address}/{place}"]
                done = subprocess.run(words, capture_output=True, text=True, timeout=120)
                found += [f"{place or '/'} at {size}: {said}" for said in COMPLAINT.findall(done.stderr)]
    return found


def main(site: Path) -> int:
    """Print what is wrong; 1 if anything is."""
    wrong = dead_links(site)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.stderr.write("no Chromium here: pages were not opened in a browser\n")
    else:
        wrong += complaints(site, browser)
    pages = len(list(site.rglob("*.html")))
    sys.stdout.write("\n".join([*wrong, f"{site}: {pages} pages, {len(wrong)} things wrong"]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else SITE))
