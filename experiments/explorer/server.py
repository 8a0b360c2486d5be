"""The web side: a page, a style sheet, a module and one WebSocket, for this machine and for who has
the token.

Every path begins with a random token. The Host header must be one of ours (a name that is made to
point at this machine is refused), and so must be the Origin of a WebSocket. The page may load
nothing but its own files.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from layerscope.errors import InputError, LayerscopeError, UseError

from .assets import PAGE, START, front_end
from .bench import Bench
from .requests import Message
from .runner import Runner
from .session import View
from .views import about
from .worker import Worker

LARGEST_MESSAGE = 1 << 18
"""Bytes that a browser may send at once."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
REFUSED = 1008
"""A WebSocket's code for what a policy does not allow."""


def require_packages() -> None:
    """Refuse to start without the web packages.

    Raises:
        UseError: they are not installed.
    """
    try:
        import starlette
        import uvicorn
        import websockets
    except ImportError as error:
        raise UseError(f"explore needs {error.name}: pip install 'layerscope[explore]'") from error
    del starlette, uvicorn, websockets


class Site:
    """The application of one bench.

    Args:
        bench: the model.
        runner: starts studies.
        view: what a screen shows that brings no text of its own.
        host, port: where it listens.
    """

    def __init__(self, bench: Bench, runner: Runner, view: View, host: str, port: int) -> None:
        self.bench, self.runner, self.view = bench, runner, view
        self.worker = Worker(bench)
        self.token = secrets.token_urlsafe(24)
        names = {host, *(LOOPBACK if host in LOOPBACK else ())}
        self.hosts = {f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names}
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{port}/{self.token}/"
        self._about = about(bench)

    # -- the application

    def application(self) -> Any:
        """What uvicorn runs."""
        from starlette.applications import Starlette
        from starlette.routing import Route, WebSocketRoute

        css, js = front_end()
        files = {
            "": (PAGE, "text/html"),
            "explore.css": (css, "text/css"),
            "explore.js": (js, "text/javascript"),
            "start.js": (START, "text/javascript"),
        }
        routes = [
            Route(f"/{{token}}/{name}", self._file(text, kind))
            for name, (text, kind) in files.items()
        ]
        return Starlette(
            routes=[
                *routes,
                Route("/{token}/runs/{number:int}", self._page_of_run),
                WebSocketRoute("/{token}/live", self._live),
            ]
        )

    def _file(self, text: str, kind: str) -> Any:
        async def answer(request: Any) -> Any:
            return self._response(request, text, kind, POLICY)

        return answer

    async def _page_of_run(self, request: Any) -> Any:
        path = self.runner.page(int(request.path_params["number"]))
        text = path.read_text(encoding="utf-8") if path is not None else "not there yet"
        # the page brings a policy of its own, by the hashes of its style and script
        return self._response(request, text, "text/html", "frame-ancestors 'none'")

    def _response(self, request: Any, text: str, kind: str, policy: str) -> Any:
        from starlette.responses import PlainTextResponse, Response

        if not self._knows(request):
            return PlainTextResponse("refused: open the address that layerscope printed", 403)
        headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        return Response(text, media_type=kind, headers=headers)

    def _knows(self, request: Any) -> bool:
        """Whether a request has the token, names one of our hosts, and comes from no other page."""
        origin = request.headers.get("origin")
        is_ours = origin is None or origin.removeprefix("http://") in self.hosts
        token = str(request.path_params.get("token", ""))
        has_token = secrets.compare_digest(token.encode(), self.token.encode())
        return has_token and is_ours and request.headers.get("host") in self.hosts

    # -- one screen

    async def _live(self, socket: Any) -> None:
        from starlette.websockets import WebSocketDisconnect

        if not self._knows(socket) or socket.headers.get("origin") is None:
            await socket.close(REFUSED)
            return
        await socket.accept()
        screen = object()
        loop = asyncio.get_running_loop()
        out: asyncio.Queue[Message] = asyncio.Queue()

        def send(message: Message) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(out.put_nowait, message)

        async def write() -> None:
            while True:
                await socket.send_text(json.dumps(await out.get(), ensure_ascii=True))

        writer = asyncio.create_task(write())
        send(
            {
                "part": "hello",
                "about": self._about,
                "view": self.view.to_json(),
                "runs": self.runner.model is not None,
            }
        )
        try:
            while True:
                self._hear(screen, await socket.receive_text(), send)
        except (WebSocketDisconnect, KeyError):  # KeyError: bytes where text was expected
            pass
        finally:
            self.worker.stop(screen)
            writer.cancel()

    def _hear(self, screen: object, text: str, send: Callable[[Message], None]) -> None:
        """One message of a screen."""
        number = None
        try:
            given = read_message(text)
            number = given.get("id")
            if given.get("do") == "stop":
                self.worker.stop(screen, "generate")
                send({"part": "stopped"})
            elif given.get("do") == "run":
                lines = given.get("lines", "")
                if not isinstance(lines, str):
                    raise InputError(f"lines: expected text, got {lines!r:.60}")
                self.runner.start(str(given.get("study")), lines, send)
            else:
                self.worker.ask(screen, given, send)
        except (LayerscopeError, OSError) as error:
            send({"part": "problem", "text": str(error), "id": number})

    def close(self) -> None:
        """End the worker and the studies that run."""
        self.worker.close()
        self.runner.close()


def read_message(text: str) -> dict[str, Any]:
    """A message as a dictionary.

    Raises:
        InputError: no JSON object.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise InputError(f"message: expected a JSON object, got {text[:60]!r}")
    return given


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the port is in use, or the address is not of this machine.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(kind, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise InputError(
            f"--port {port}: cannot listen on {host} ({error.strerror}): "
            "choose another port, or 0 for any"
        ) from None
    return listener


def server_of(site: Site) -> Any:
    """The web server, not yet running."""
    import uvicorn

    settings = uvicorn.Config(
        site.application(),
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=LARGEST_MESSAGE,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(settings)


def serve(
    bench: Bench, runner: Runner, view: View, host: str, port: int, is_opened: bool = True
) -> None:
    """Show the bench in the browser until Ctrl-C."""
    require_packages()
    listener = bound(host, port)
    site = Site(bench, runner, view, host, listener.getsockname()[1])
    if host not in LOOPBACK:
        print(
            f"layerscope: {host} can be reached by others: the token in the address is all that "
            "keeps them out, and nothing is encrypted",
            file=sys.stderr,
        )
    print(f"layerscope explore: {site.address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if is_opened:
        webbrowser.open(site.address)
    try:
        server_of(site).run(sockets=[listener])
    finally:
        site.close()
        listener.close()
