"""The language that a browser gets: the one chosen on the page, else the browser's own if the page has it.

A request for `?language=fa` is a choice: it sets a cookie and redirects to that language's page. A request
for the dashboard's address redirects to the page of the chosen language, except for the API page. Pages that
Gradio serves get their language and direction before anything is drawn.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs
from urllib.parse import quote as quote_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.text.language import LANGUAGES, Language

# Gradio then shows its API page, which is in English, over the page at the dashboard's address
API_QUERY = "?view=api"
COOKIE = "fiducial_language"
COOKIE_S = 10 * 365 * 24 * 3600
PERSIAN_FILES = Path(__file__).parents[1] / "static" / "persian"
PAGES = {f"/{language.path}": language for language in LANGUAGES.values()}


class LanguageChoice:
    """ASGI middleware in front of Gradio's pages; all other requests pass through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a choice, redirect to the chosen page, or let Gradio answer, with the language named."""
        page = PAGES.get(path_below_root(scope)) if scope["type"] == "http" else None
        if page is None or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        choice = parse_qs(query).get("language", [""])[-1]
        if choice in LANGUAGES:
            answer = RedirectResponse(f"./{LANGUAGES[choice].path}", status_code=303)
            answer.set_cookie(COOKIE, choice, max_age=COOKIE_S, samesite="lax", httponly=True)
            await answer(scope, receive, send)
            return
        preferred = _preferred(Headers(scope=scope))
        if not page.path and preferred.path and f"?{query}" != API_QUERY:
            await RedirectResponse(f"./{preferred.path}{'?' + query if query else ''}")(scope, receive, send)
            return
        await self._app(scope, receive, _NamingLanguage(page, send))


class _NamingLanguage:
    """Sends Gradio's page in one piece, with the language in its head."""

    def __init__(self, page: Language, send: Send) -> None:
        self._page, self._send = page, send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = name_language(self._body, self._page)
        headers = MutableHeaders(scope=self._start)
        headers["content-length"] = str(len(body))
        headers.add_vary_header("Cookie")
        headers["cache-control"] = "no-cache"  # after another choice the same address leads elsewhere
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})


def name_language(body: bytes, page: Language) -> bytes:
    """Return Gradio's HTML with the page's language and direction, and the style sheet for them.

    Gradio takes its own few texts in the browser's language; the script makes it use the page's.
    """
    script = f'Object.defineProperty(navigator, "language", {{get: () => "{page.code}"}});'
    head = f"<script>{script}</script>".encode()
    if page.direction == "rtl":
        address = "gradio_api/file=" + quote_address((PERSIAN_FILES / "persian.css").as_posix())
        head += f'<link rel="stylesheet" href="{address}">'.encode()
    attributes = f'lang="{page.code}" dir="{page.direction}"'.encode()
    return body.replace(b'lang="en"', attributes, 1).replace(b"</head>", head + b"</head>", 1)


def _preferred(headers: Headers) -> Language:
    """Return the chosen language, else the first that the browser names, else English."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        cookies.clear()  # a cookie of another program on this host
    chosen = cookies[COOKIE].value if COOKIE in cookies else headers.get("accept-language", "")[:2].lower()
    return LANGUAGES.get(chosen, LANGUAGES["en"])


def path_below_root(scope: Scope) -> str:
    """Return the path of a request below the address at which the dashboard is served."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")).rstrip("/")) or "/"
