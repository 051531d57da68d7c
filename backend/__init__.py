"""Everything that is neither a network nor a screen: data, training, runs, the device, and the commands."""

__version__ = "0.1.0"
