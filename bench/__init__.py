"""What is measured: `python -m bench` starts a service of its own, measures it and writes results.md."""
