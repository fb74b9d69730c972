"""What a former page asks for after a change of page is dropped; everything else passes."""

import asyncio

from starlette.types import Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from filemill_dashboard.asgi.page_changes import FormerPageFilter, PageChanges


def run(page: str) -> bytes:
    """A request for a whole page."""
    message = BackMsg()
    message.rerun_script.page_script_hash = page
    return bytes(message.SerializeToString())


def refresh(page: str) -> bytes:
    """A request for a part of a page."""
    message = BackMsg()
    message.rerun_script.page_script_hash = page
    message.rerun_script.fragment_id = "body"
    return bytes(message.SerializeToString())


def begins(page: str, part: str = "") -> bytes:
    """The server's first message of a run of a whole page, or of a part of it."""
    message = ForwardMsg()
    message.new_session.page_script_hash = page
    if part:
        message.metadata.run.fragment_ids.append(part)
    return bytes(message.SerializeToString())


def shows(page: str) -> bytes:
    """The server's message that names the page which `st.navigation` has chosen."""
    message = ForwardMsg()
    message.navigation.page_script_hash = page
    return bytes(message.SerializeToString())


def test_a_refresh_of_the_page_that_was_left_is_dropped() -> None:
    changes = PageChanges()
    assert changes.accept(run("files"))
    assert changes.accept(refresh("files"))
    assert changes.accept(run("workers"))
    assert not changes.accept(refresh("files"))
    assert changes.accept(refresh("workers"))


def test_the_first_request_names_no_page() -> None:
    changes = PageChanges()
    assert changes.accept(run(""))
    changes.sent(begins("entry script"))
    assert changes.accept(refresh("files"))
    changes.sent(shows("files"))
    assert changes.accept(refresh("files"))
    assert changes.accept(refresh(""))
    assert changes.accept(run("workers"))
    assert not changes.accept(refresh("files"))
    changes.sent(shows("workers"))
    assert changes.accept(run("files"))
    assert changes.accept(refresh("files"))
    assert not changes.accept(refresh("workers"))


def test_the_server_may_change_the_page() -> None:
    changes = PageChanges()
    assert changes.accept(run("files"))
    changes.sent(begins("file"))
    assert not changes.accept(refresh("files"))
    assert changes.accept(refresh("file"))


def test_a_refresh_that_the_server_begins_changes_no_page() -> None:
    changes = PageChanges()
    assert changes.accept(run("files"))
    assert changes.accept(run("workers"))
    changes.sent(begins("files", part="body"))
    assert not changes.accept(refresh("files"))


def test_other_messages_pass() -> None:
    changes = PageChanges()
    assert changes.accept(run("files"))
    assert changes.accept(b"")
    assert changes.accept(b"\xff\xff")
    stop = BackMsg()
    stop.stop_script = True
    assert changes.accept(stop.SerializeToString())


def test_a_dropped_message_does_not_reach_the_pages() -> None:
    received: list[bytes] = []
    from_browser = [run("files"), run("workers"), refresh("files"), refresh("workers")]

    async def pages(_scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            received.append(message["bytes"])
            await send({"type": "websocket.send", "bytes": begins("workers")})

    async def receive() -> Message:
        if from_browser:
            return {"type": "websocket.receive", "bytes": from_browser.pop(0)}
        return {"type": "websocket.disconnect"}

    async def send(_message: Message) -> None:
        pass

    asyncio.run(FormerPageFilter(pages)({"type": "websocket"}, receive, send))
    assert received == [run("files"), run("workers"), refresh("workers")]
