"""The life of a run as a folder: its files, its state, and the process that trains in it.

Owns everything under `runs/`. Must not know torch, networks, data sets or screens: the worker and the
dashboard share nothing but the folder.
"""
