"""The outside of faceq: one file per technology, each behind a port of `pipeline.ports`; `wiring` joins them."""
