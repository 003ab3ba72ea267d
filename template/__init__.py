"""deploy/template.yaml, read once: what the service is, for the laptop, the promotion and the functions alike."""
