"""Ignores what the former page asks for after a change of page.

A browser shows the former page until the first message of the new one arrives, and the top bar of the former page asks
for refreshes until then. Streamlit would serve such a request after it has drawn the new page: it would tell the
browser that the former page begins, the browser would remove all elements, and the refreshed part would then be set in
a place that does not exist ("Cannot set a node at a delta path"). See docs/decisions/0037.
"""

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg


class FormerPageFilter:
    """Middleware around the pages: drops requests of a former page from their WebSockets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        changes = PageChanges()

        async def receive_current() -> Message:
            while True:
                message = await receive()
                if message["type"] != "websocket.receive" or changes.accept(message.get("bytes") or b""):
                    return message

        async def send_observed(message: Message) -> None:
            if message["type"] == "websocket.send":
                changes.sent(message.get("bytes") or b"")
            await send(message)

        await self._app(scope, receive_current, send_observed)


class PageChanges:
    """The pages of one connection: the present one, and those that were left. Requests of other pages are not dropped.

    The present page is the one that the browser asked for or that the server sent, whichever was later. At first a
    browser names no page, and the server sends the entry script's hash before that of the page.
    """

    def __init__(self) -> None:
        self._page = ""
        self._left: set[str] = set()

    def accept(self, message: bytes) -> bool:
        """Note a message of the browser. Returns False if it is a request for a part of a page that was left."""
        try:
            request = BackMsg.FromString(message)
        except DecodeError:
            return True  # Streamlit refuses what is no message
        if request.WhichOneof("type") != "rerun_script":
            return True
        page = request.rerun_script.page_script_hash
        if request.rerun_script.fragment_id:
            return page not in self._left
        self._change(page)
        return True

    def sent(self, message: bytes) -> None:
        """Note a message of the server: a run of a whole page may begin another page than the one asked for."""
        answer = ForwardMsg.FromString(message)
        kind = answer.WhichOneof("type")
        if kind == "new_session" and not answer.metadata.run.fragment_ids:
            self._change(answer.new_session.page_script_hash)
        elif kind == "navigation":
            self._change(answer.navigation.page_script_hash)

    def _change(self, page: str) -> None:
        if page and page != self._page:
            self._left.add(self._page)
            self._left -= {page, ""}
            self._page = page
