"""Somewhere compiled code runs: this process, another one, a device over the network, an emulator."""
