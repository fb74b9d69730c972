"""Security headers of every response: what a browser may do with it, and which pages may read it.

Behind TLS, each cookie is `Secure`. Streamlit sets one against forged requests, and knows nothing of a proxy with TLS.
"""

import base64
import hashlib
import re
from pathlib import Path

import streamlit
from secure import (
    ContentSecurityPolicy,
    CrossOriginOpenerPolicy,
    CrossOriginResourcePolicy,
    PermissionsPolicy,
    ReferrerPolicy,
    Secure,
    XContentTypeOptions,
    XFrameOptions,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from filemill_dashboard.asgi import base_url

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
# Responses with data: neither a browser nor a proxy may store them.
_NO_STORE_PATHS = ("/api", "/healthz", "/readyz")

Header = tuple[bytes, bytes]


class ResponseHeaders:
    """Middleware: adds the headers to each response and replaces those of the same name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._pages = _encoded(_secure(_policy_of_pages()))
        self._data = [*_encoded(_secure(_policy_of_data())), (b"cache-control", b"no-store")]
        self._names = {name for name, _ in self._pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = self._data if scope["path"].startswith(_NO_STORE_PATHS) else self._pages

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [header for header in message.get("headers", ()) if header[0] not in self._names]
                if scope["scheme"] == "https":
                    kept = [_for_tls_only(header) for header in kept]
                message["headers"] = [*kept, *added]
            await send(message)

        await self._app(scope, receive, with_headers)


def _for_tls_only(header: Header) -> Header:
    name, value = header
    if name != b"set-cookie" or re.search(rb";\s*secure\s*(;|$)", value, re.IGNORECASE):
        return header
    return name, value + b"; Secure"


def _encoded(secure: Secure) -> list[Header]:
    return [(name.lower().encode(), value.encode()) for name, value in secure.headers.items()]


def _secure(policy: ContentSecurityPolicy) -> Secure:
    return Secure(
        csp=policy,
        xfo=XFrameOptions().deny(),
        xcto=XContentTypeOptions().nosniff(),
        referrer=ReferrerPolicy().same_origin(),
        coop=CrossOriginOpenerPolicy().same_origin(),
        corp=CrossOriginResourcePolicy().same_origin(),
        permissions=PermissionsPolicy().camera().microphone().geolocation().usb().payment().display_capture().midi(),
    )


def _policy_of_data() -> ContentSecurityPolicy:
    """A response that is opened in a tab loads nothing."""
    return ContentSecurityPolicy().default_src("'none'").frame_ancestors("'none'")


def _policy_of_pages() -> ContentSecurityPolicy:
    """What Streamlit needs: inline styles, component scripts as blobs, pictures as data URLs."""
    return (
        ContentSecurityPolicy()
        .default_src("'self'")
        .script_src("'self'", "blob:", "'wasm-unsafe-eval'", *_hashes_of_inline_scripts())
        .style_src("'self'", "'unsafe-inline'")
        .img_src("'self'", "data:", "blob:")
        .font_src("'self'", "data:")
        .connect_src("'self'")
        .worker_src("'self'", "blob:")
        .object_src("'none'")
        .frame_src("'none'")
        .base_uri("'none'")
        .form_action("'self'")
        .frame_ancestors("'none'")
    )


def _hashes_of_inline_scripts() -> list[str]:
    """The hashes of the inline scripts in the page of the installed Streamlit, and of the one that is added to it."""
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    digests = [hashlib.sha256(script.encode()).digest() for script in [*_INLINE_SCRIPT.findall(page), base_url.SCRIPT]]
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
