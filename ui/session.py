"""The state of one browser page: the run it watches and what it has drawn already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Session:
    """The run that a page watches, and what was sent to it.

    `drawn`: what was sent last, by the name of a part, so that nothing is sent twice. `awaited`: what an
    answer is still awaited for, by the name of a part, even if another run is watched by then.
    """

    run_id: str | None = None
    preview: tuple[str, int] | None = None  # phase and epoch chosen on the slider; None: always the newest
    drawn: dict[str, Any] = field(default_factory=dict)
    awaited: dict[str, Any] = field(default_factory=dict)

    def watch(self, run_id: str | None) -> None:
        """Show another run and redraw everything."""
        self.run_id, self.preview = run_id, None
        self.forget()

    def has_changed(self, part: str, signature: Any) -> bool:
        """Whether a part has a new signature, which counts as sent from then on."""
        if self.drawn.get(part, _NOTHING) == signature:
            return False
        self.drawn[part] = signature
        return True

    def forget(self) -> None:
        """Redraw everything at the next chance."""
        self.drawn.clear()


_NOTHING = object()
