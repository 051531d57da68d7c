"""The exception that ends an installation, with what the user can do."""

from __future__ import annotations


class InstallError(Exception):
    """What went wrong, and the cure."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(f"{what}\n{cure}")
