"""Everything that is neither a network nor a screen: data, training, runs, the device, and the commands."""

from backend.device.order import number_by_pci_bus

__version__ = "0.2.0"

number_by_pci_bus()  # here, because every entry point comes past here before it imports torch
