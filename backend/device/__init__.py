"""Readings of this machine: its GPUs, memory and CPUs."""
