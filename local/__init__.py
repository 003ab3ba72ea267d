"""What AWS does around the functions, played on a laptop, and nothing else. docs/emulation.md says how exactly."""
