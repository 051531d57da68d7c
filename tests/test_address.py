"""Where the dashboard is served: flags, Gradio's variables, and the next free port."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from backend import address
from backend.address import DEFAULT_HOST, Address, bypass_proxy, find_free_port, take_address
from backend.errors import UserError


def taken(**variables: str) -> Address:
    return take_address(None, None, None, dict(variables))


def test_the_address_without_flags_and_variables() -> None:
    assert taken() == Address("127.0.0.1", 7860, "")
    assert taken(GRADIO_SERVER_NAME="", GRADIO_SERVER_PORT="", GRADIO_ROOT_PATH="") == taken()


def test_variables_are_taken_out_and_flags_win() -> None:
    variables = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "8000", "GRADIO_ROOT_PATH": "/a/"}
    environment = {**variables, "OTHER": "stays"}
    assert take_address(None, None, None, environment) == Address("0.0.0.0", 8000, "/a")
    assert environment == {"OTHER": "stays"}
    assert take_address("::1", 80, "", {**variables}) == Address("::1", 80, "")
    assert taken(GRADIO_ROOT_PATH="https://example.org/a").root_path == "https://example.org/a"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADIO_SERVER_PORT", "abc"),
        ("GRADIO_SERVER_PORT", "78.5"),
        ("GRADIO_SERVER_PORT", "0"),
        ("GRADIO_SERVER_PORT", "65536"),
        ("GRADIO_ROOT_PATH", "fiducial"),
        ("GRADIO_ROOT_PATH", "/a b"),
    ],
)
def test_a_wrong_variable_is_named_with_its_cure(name: str, value: str) -> None:
    with pytest.raises(UserError) as mistake:
        taken(**{name: value})
    assert mistake.value.field == name
    assert mistake.value.cure and "\n" not in str(mistake.value)


def test_a_wrong_flag_is_named_too() -> None:
    for flags, field in (((None, 70000, None), "port"), ((None, None, "x"), "root_path")):
        with pytest.raises(UserError) as mistake:
            take_address(*flags, {})
        assert mistake.value.field == field


def test_an_address_of_version_6_is_in_brackets() -> None:
    assert Address("::1", 7860, "").url == "http://[::1]:7860"
    assert take_address("[::1]", None, None, {}).host == "::1"
    assert Address("127.0.0.1", 7860, "/a").url == "http://127.0.0.1:7860"


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_our_own_server_is_not_asked_through_a_proxy(name: str) -> None:
    environment = {"HTTP_PROXY": "http://proxy:3128", name: "intranet"}
    bypass_proxy(Address("10.0.0.5", 7860, ""), environment)
    expected = "intranet,localhost,127.0.0.1,::1,10.0.0.5"
    assert environment["no_proxy"] == environment["NO_PROXY"] == expected
    bypass_proxy(Address("10.0.0.5", 7860, ""), environment)
    assert environment["no_proxy"] == expected


@pytest.fixture
def busy() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.socket() as server:
        server.bind((DEFAULT_HOST, 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", [DEFAULT_HOST, "localhost", "0.0.0.0"])
def test_a_busy_port_is_passed_over(host: str, busy: int) -> None:
    port = find_free_port(host, busy)
    assert busy < port < busy + address.NUM_PORTS


def test_a_port_that_has_just_become_free_is_taken() -> None:
    with socket.create_server((DEFAULT_HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((DEFAULT_HOST, port)):
            server.accept()[0].close()
    assert find_free_port(DEFAULT_HOST, port) == port


def test_no_free_port_is_a_mistake(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "NUM_PORTS", 1)
    with pytest.raises(UserError, match=f"no port from {busy} to {busy} is free"):
        find_free_port(DEFAULT_HOST, busy)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 70 + ".example"])
def test_a_host_that_is_not_here_is_a_mistake(host: str) -> None:
    with pytest.raises(UserError) as mistake:
        find_free_port(host, 7860)
    assert mistake.value.field == "host" and "0.0.0.0" in mistake.value.cure


@pytest.mark.skipif(os.name == "nt", reason="Windows lets any user serve on any port")
def test_a_port_that_the_user_may_not_take_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UserError, match="may not serve on port 80"):
        find_free_port(DEFAULT_HOST, 80)
