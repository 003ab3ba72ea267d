"""Promotion to AWS: plan, deploy, roll back. `template.yaml` describes the service, for AWS and for `local` alike."""
