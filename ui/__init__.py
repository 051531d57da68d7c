"""The dashboard. Imports neither torch nor models: what needs them runs in a process of its own."""
