"""The face recognition models: what exists (`catalogue`), what is installed, and how to install it."""
