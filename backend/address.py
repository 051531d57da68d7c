"""The address that the dashboard is served at: by flags and Gradio's variables, at a port that is free."""

from __future__ import annotations

import errno
import re
import socket
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass

from backend.errors import UserError
from backend.numbers import read_whole_number

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7860
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
NUM_PORTS = 100  # tried, from the one that was asked for on
MAX_PORT = 65535
HOST_VARIABLE, PORT_VARIABLE, ROOT_VARIABLE = "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_ROOT_PATH"
_ROOT = re.compile(r"(https?://[^/\s?#]+)?(/[^\s?#]*)?")
_NOT_OURS = (errno.EADDRNOTAVAIL, getattr(errno, "WSAEADDRNOTAVAIL", errno.EADDRNOTAVAIL))

# as asyncio binds a server: without it, a port stays busy for a minute after its server has ended; on Windows
# the same option would take a port away from a server that lives
if sys.platform == "win32":
    _LIKE_A_SERVER = socket.SO_EXCLUSIVEADDRUSE
else:
    _LIKE_A_SERVER = socket.SO_REUSEADDR


@dataclass(frozen=True)
class Address:
    """Where to serve. `root_path` is the path, or the whole address, at which a proxy serves the page."""

    host: str
    port: int
    root_path: str

    @property
    def url(self) -> str:
        """The address on this computer."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def take_address(
    host: str | None, port: int | None, root_path: str | None, environment: MutableMapping[str, str]
) -> Address:
    """Return the address by flags (None: not given), else by Gradio's variables, else by default.

    The variables are taken out of `environment`: Gradio reads them when it is imported, where a port that is
    not a number is a traceback, and tries the port on the address of the variable even if a flag names
    another. Raises UserError for a value that cannot be served.
    """
    values = {name: environment.pop(name, "") for name in (HOST_VARIABLE, PORT_VARIABLE, ROOT_VARIABLE)}
    root = ("root_path", root_path) if root_path is not None else (ROOT_VARIABLE, values[ROOT_VARIABLE])
    return Address(
        host=(values[HOST_VARIABLE] if host is None else host).strip("[]") or DEFAULT_HOST,
        port=_port(port, values[PORT_VARIABLE]),
        root_path=_require_root(*root),
    )


def bypass_proxy(address: Address, environment: MutableMapping[str, str]) -> None:
    """Keep the requests to our own server away from the proxy that the variables name, if they name one.

    Gradio asks its server whether it answers, and does not start if a proxy is asked for it.
    """
    already = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    names = dict.fromkeys([*already.split(","), *LOCAL_NAMES, address.host])
    for name in ("no_proxy", "NO_PROXY"):
        environment[name] = ",".join(filter(None, names))


def _port(given: int | None, variable: str) -> int:
    name, port = "port", given
    if port is None and variable:
        name = PORT_VARIABLE
        try:
            port = read_whole_number(variable)
        except UserError as error:
            raise UserError(error.what, field=name, cure=f"write a port, such as {DEFAULT_PORT}") from None
    if port is None:
        return DEFAULT_PORT
    if not 1 <= port <= MAX_PORT:
        cure = f"write a port from 1 to {MAX_PORT}, such as {DEFAULT_PORT}"
        raise UserError(f"{port} is not a port", field=name, cure=cure)
    return port


def _require_root(name: str, text: str) -> str:
    if not _ROOT.fullmatch(text):
        cure = "write the path at which your proxy serves the page, such as /fiducial, or its whole address"
        raise UserError(f"{text!r} is not a path or an address", field=name, cure=cure)
    return text.rstrip("/")


def find_free_port(host: str, first: int) -> int:
    """Return the first port from `first` on that is free on `host`.

    A port that was typed is only where the search begins, too: it is mostly busy because a dashboard serves
    on it already, and a second one that is started should end in a page, not in a mistake. The caller says
    which port is taken. Raises UserError if none of `NUM_PORTS` is free, or if this computer cannot serve on
    `host` at all.
    """
    last = min(first + NUM_PORTS - 1, MAX_PORT)
    for port in range(first, last + 1):
        # Gradio tries the port on the default host, whichever host it then serves on
        if all(_is_free(name, port) for name in dict.fromkeys((host, DEFAULT_HOST))):
            return port
    cure = "end one of the programs that hold them, or choose another with --port"
    raise UserError(f"no port from {first} to {last} is free on {host}", field="port", cure=cure)


def _is_free(host: str, port: int) -> bool:
    """Whether a server can be started there now. Raises UserError if the reason is not that port."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"there is no address {host!r}", field="host", cure=_HOST_CURE) from None
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, _LIKE_A_SERVER, 1)
        try:
            trial.bind(place)
        except PermissionError:
            if sys.platform == "win32":  # which says it of a port that another program holds for itself
                return False
            cure = "choose a port from 1024 on with --port"
            raise UserError(f"this user may not serve on port {port}", field="port", cure=cure) from None
        except OSError as error:
            if error.errno in _NOT_OURS:
                what = f"{host} is not an address of this computer"
                raise UserError(what, field="host", cure=_HOST_CURE) from None
            return False
    return True


_HOST_CURE = f"use {DEFAULT_HOST} for this computer alone, or 0.0.0.0 for its whole network"
