"""The life of a run as a folder: its files, its state, and the process that trains in it.

The worker and the dashboard share nothing but this folder.
"""
