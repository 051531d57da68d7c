"""The exception for mistakes that the user can correct."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user: what is wrong, in which setting, and the cure.

    The command line prints it as one line and exits with 2; the form marks the field.
    """

    def __init__(self, what: str, *, field: str = "", cure: str = "") -> None:
        self.what = what
        self.field = field
        self.cure = cure
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.field}: {self.what}" if self.field else self.what
        return f"{text}; {self.cure}" if self.cure else text
