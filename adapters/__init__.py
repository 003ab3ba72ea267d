"""The technologies that faceq uses: one file for each, behind a port of `pipeline.ports`. `wiring` joins them."""
