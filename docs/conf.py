"""The documentation as a site: `make docs` writes it to build/docs, without a network.

The sources are the Markdown files of the repository as they are read there, so that their links hold in both
places.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sphinx.application import Sphinx

from backend import __version__

project = "Fiducial"
copyright = "Fiducial contributors"
release = __version__
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "bench/*.md", "docs/**.md"]
exclude_patterns = ["build", ".venv", "data", "runs"]
smartquotes = False  # -- begins a flag
myst_heading_anchors = 4
html_theme = "alabaster"
html_theme_options = {"fixed_sidebar": True, "page_width": "70rem"}
html_title = f"Fiducial {release}"
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_contents)


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Make what the index of docs links, in its order, the table of contents of the site."""
    if page != root_doc:
        return
    index = Path(app.srcdir, "docs", "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([\w/-]+)\.md\)", index)
    persian = [f"fa/{name}" for name in linked if Path(app.srcdir, "docs", "fa", f"{name}.md").is_file()]
    pages = [f"docs/{name}" for name in dict.fromkeys(["README", *linked, *persian])]
    others = ["bench/README", "CHANGELOG", "CONTRIBUTING", "README.fa"]
    source[0] += "\n".join(["", "", "```{toctree}", ":hidden:", "", *pages, *others, "```", ""])
