"""Install the pinned packages into `.venv` and start the dashboard, for `start.py`. Standard library only."""

# the Pythons that every pin has a wheel for; docs/dependencies.md says how this was checked
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
