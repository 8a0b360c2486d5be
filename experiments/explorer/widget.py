"""The bench in a notebook: the same front end,
over the kernel's messages instead of a WebSocket.
"""

from __future__ import annotations

import threading
from typing import Any

from layerscope.errors import LayerscopeError, UseError

from .assets import front_end
from .bench import Bench
from .requests import Message
from .session import View
from .views import about
from .worker import Worker

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise UseError(
        f"layerscope.explore in a notebook needs {error.name}: pip install 'layerscope[explore]'"
    ) from error

_CSS, _MODULE = front_end()


class ExploreWidget(anywidget.AnyWidget):
    """The screen of one bench.

    Attributes:
        about: the model, for the front end.
        view: what is looked at: the front end writes it, and a new screen begins with it.
    """

    _esm = _MODULE
    _css = _CSS
    about = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, bench: Bench, view: View) -> None:
        super().__init__(about=about(bench), view=view.to_json())
        self.bench = bench
        self.worker = Worker(bench)
        self._lock = threading.Lock()
        self.on_msg(self._hear)

    def _hear(self, widget: Any, given: Any, buffers: Any) -> None:
        """One message of the front end."""
        screen = given.get("screen") if isinstance(given, dict) else None

        def reply(message: Message) -> None:
            with self._lock:
                self.send({**message, "screen": screen})

        try:
            if not isinstance(given, dict):
                raise UseError(f"message: expected a dictionary, got {given!r:.60}")
            request = {key: value for key, value in given.items() if key != "screen"}
            if request.get("do") == "stop":
                self.worker.stop(self, "generate")
                reply({"part": "stopped"})
            else:
                self.worker.ask(self, request, reply)
        except LayerscopeError as error:
            reply({"part": "problem", "text": str(error)})

    def close(self) -> None:
        """End the worker with the widget."""
        self.worker.close()
        super().close()
