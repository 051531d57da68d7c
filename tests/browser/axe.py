"""What axe-core finds on a page, apart from what Gradio's own markup makes.

The exceptions stand in axe_exceptions.toml, each with its reason.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

EVERY_RULE = ("wcag2a", "wcag2aa")
COLOR_RULES = ("color-contrast", "link-in-text-block")  # those of EVERY_RULE that a theme can break
GRAVE = ("serious", "critical")
MATCHES = "([target, selector]) => Boolean(document.querySelector(target)?.matches(selector))"


@dataclass(frozen=True)
class GradioMakesIt:
    """What Gradio makes and nobody can mend from outside: a rule of axe's, and where it is broken."""

    rule: str
    selector: str
    reason: str


EXCEPTIONS = tuple(
    GradioMakesIt(**one)
    for one in tomllib.loads(Path(__file__).with_name("axe_exceptions.toml").read_text()).get("exception", [])
)


@dataclass(frozen=True)
class Found:
    """A grave violation: the rule, the element, and the exception that it falls under."""

    rule: str
    element: str
    exception: GradioMakesIt | None


def grave_violations(page: Page, rules: Sequence[str] = EVERY_RULE) -> list[Found]:
    """Every element that breaks one of these rules, or one with these tags, gravely, as the page is now."""
    options = {"runOnly": list(rules), "resultTypes": ["violations"]}
    violations = Axe().run(page, options=options).response["violations"]
    return [
        Found(one["id"], node["html"][:300], _exception(page, one["id"], node["target"][0]))
        for one in violations
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


def _exception(page: Page, rule: str, target: str) -> GradioMakesIt | None:
    known = (one for one in EXCEPTIONS if one.rule == rule)
    return next((one for one in known if page.evaluate(MATCHES, [target, one.selector])), None)
