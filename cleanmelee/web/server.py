"""The page's server: plain HTTP for what is watched, a WebSocket for each game that is played.

Only this machine is listened to, unless a host is named; then every address needs a token. A request that makes no
sense is answered with one line, in the page too, and nothing else stops."""

import asyncio
import contextlib
import errno
import gzip
import hmac
import http
import json
import logging
import socket
import urllib.parse
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from cleanmelee.cli import UserError
from cleanmelee.terminal import printable
from cleanmelee.web.library import Library, encode_recording
from cleanmelee.web.thoughts import FACTS, recorded_thoughts
from melee_common import Policy

LOOPBACK, EVERYWHERE = "127.0.0.1", ("0.0.0.0", "::")
PAGE = Path(__file__).with_name("page.html")
MESSAGE_BYTES = 4096                                                        # of what a page sends
ZIP_LEVEL = 1                                                               # the quickest: this machine has time for it
GOODBYE = 1.                                                                # seconds for a browser's own
READERS = 2                                                                 # recordings that are read at a time
# The page is one file and loads nothing from anywhere else.
HEADERS = {
    "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                               "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'"}
SILENT = logging.getLogger("cleanmelee.web")                                # what strangers send is no news
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False


class Site:
    """What a page may ask for.

    library: the recordings that it shows. policy: whose thoughts it shows beside them, None for nobody's. games: the
    `Games` that it can play, None for none. token: needed in every address; empty for none."""

    def __init__(self, library: Library, policy: Policy | None = None, policy_name: str = "", games=None,
                 token: str = ""):
        self.library, self.policy, self.policy_name, self.games, self.token = library, policy, policy_name, games, token
        self.port = 0                                                       # as soon as the server listens
        self.readers = asyncio.Semaphore(READERS)

    # ------------------------------------------------------------------------------------------------------------ HTTP

    async def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response to a request; None: it may become a WebSocket."""
        try:
            address = urllib.parse.urlsplit(request.path)
            query = {name: values[-1] for name, values in urllib.parse.parse_qs(address.query).items()}
        except ValueError:
            return respond(http.HTTPStatus.BAD_REQUEST, b"no address\n")
        if not self.admits(request, query):
            return respond(http.HTTPStatus.FORBIDDEN, b"open the address that play.py has printed\n")
        wanted = {"/": self.page, "/state": self.state, "/recording": self.recording, "/thoughts": self.thoughts,
                  "/slp": self.slp}.get(address.path)
        if address.path == "/play" and self.games is not None and "Upgrade" in request.headers:
            return None
        if wanted is None:
            return respond(http.HTTPStatus.NOT_FOUND, b"there is no such page\n")
        try:
            response = await wanted(query)
        except UserError as error:
            return respond(http.HTTPStatus.NOT_FOUND, printable(error, 1000).encode())
        return zipped(response) if "gzip" in request.headers.get("Accept-Encoding", "") else response

    def admits(self, request: Request, query: dict[str, str]) -> bool:
        """Is this our own page, or somebody who has its address? Another site's page, which a browser here has open,
        can send requests too, also by a name of its own for this machine; it cannot change where they say they come
        from."""
        try:
            hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        except KeyError:
            return False
        if self.token:
            given = query.get("token", "").encode()
            here = hmac.compare_digest(given, self.token.encode())
        else:
            here = hosts in ([f"{LOOPBACK}:{self.port}"], [f"localhost:{self.port}"])
        return here and (not origins or origins == [f"http://{host}" for host in hosts])

    async def page(self, query: dict[str, str]) -> Response:
        return respond(http.HTTPStatus.OK, PAGE.read_bytes(), "text/html; charset=utf-8")

    async def state(self, query: dict[str, str]) -> Response:
        """What there is to choose from."""
        recordings = await asyncio.to_thread(self.library.listing)
        return respond_json({"recordings": recordings, "policy": self.policy_name,
                             "play": self.games and self.games.choices()})

    async def recording(self, query: dict[str, str]) -> Response:
        """?name=...&from=...: see `encode_recording`."""
        start = query.get("from", "0")
        start = int(start) if start.isascii() and start.isdigit() and len(start) < 9 else 0
        async with self.readers:
            content = await asyncio.to_thread(
                lambda: encode_recording(self.library.read(query.get("name", "")), start))
        return respond(http.HTTPStatus.OK, content, "application/octet-stream")

    async def thoughts(self, query: dict[str, str]) -> Response:
        """?name=...: the length of a JSON text in 4 bytes, that text, THOUGHT [T, 2]."""
        if self.policy is None:
            raise UserError("no checkpoint was given: start play.py --watch with --policy policy.pt")
        async with self.readers:
            records = await asyncio.to_thread(
                lambda: recorded_thoughts(self.policy, self.library.read(query.get("name", ""))))
        text = json.dumps(FACTS).encode()
        content = len(text).to_bytes(4, "little") + text + records.tobytes()
        return respond(http.HTTPStatus.OK, content, "application/octet-stream")

    async def slp(self, query: dict[str, str]) -> Response:
        """?name=...: the file itself, to save."""
        path = self.library.path(query.get("name", ""))
        content = await asyncio.to_thread(path.read_bytes)
        response = respond(http.HTTPStatus.OK, content, "application/octet-stream")
        response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{urllib.parse.quote(path.name)}"
        return response

    # ------------------------------------------------------------------------------------------------------- WebSocket

    async def connected(self, connection: ServerConnection) -> None:
        """A page that plays, until it is closed."""
        with contextlib.suppress(ConnectionClosed):
            await self.games.attend(connection)


def respond(status: http.HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> Response:
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"} | HEADERS)
    return Response(status.value, status.phrase, headers, body)


def respond_json(value) -> Response:
    return respond(http.HTTPStatus.OK, json.dumps(value).encode(), "application/json")


def zipped(response: Response) -> Response:
    response.body = gzip.compress(response.body, ZIP_LEVEL)
    del response.headers["Content-Length"]
    response.headers["Content-Length"], response.headers["Content-Encoding"] = str(len(response.body)), "gzip"
    return response


@contextlib.asynccontextmanager
async def listening(site: Site, host: str, port: int):
    """The server, while this block lasts; yields its address. UserError: it cannot listen there."""
    try:
        server = await serve(
            site.connected, host, port, process_request=site.answer, max_size=MESSAGE_BYTES, compression=None,
            close_timeout=GOODBYE, server_header=None, logger=SILENT)
    except (OSError, UnicodeError) as error:                                # UnicodeError: a name like a..b
        number = getattr(error, "errno", None)                              # newer asyncio gives none, for no address
        if isinstance(error, socket.gaierror) or number in (None, errno.EADDRNOTAVAIL):
            raise UserError(f"--host {printable(host, 100)}: no address of this machine; give one that it has, or "
                            "0.0.0.0 for all of them") from None
        reason = {errno.EADDRINUSE: "is in use, perhaps by another play.py",
                  errno.EACCES: "is not for everybody to listen at"}.get(number, f"cannot be used ({error})")
        raise UserError(f"--web-port {port}: the port {reason}; choose another one, or 0 for any that is free"
                        ) from None
    try:
        async with server:
            site.port = server.sockets[0].getsockname()[1]
            where = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
            yield f"http://{where}:{site.port}/" + (f"?token={site.token}" if site.token else "")
    finally:
        if site.games is not None:
            site.games.close()


def run(site: Site, host: str, port: int) -> None:
    """Serves until Ctrl-C."""
    async def forever():
        async with listening(site, host or LOOPBACK, port) as address:
            print(f"{address}   (Ctrl-C ends it)", flush=True)
            await asyncio.get_running_loop().create_future()

    asyncio.run(forever())
