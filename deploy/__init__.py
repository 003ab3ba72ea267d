"""Promotion to AWS. `template.yaml` is the one description of the service that AWS and `local` both read."""
