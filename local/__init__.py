"""Emulate what AWS does around the functions, on a laptop. docs/emulation.md lists how exactly."""
