"""What a Lambda runtime imports: one module for each function, which loads only that function's model.

A new function is one handler in `pipeline/handlers`, one module here that builds its collaborators with
`adapters.wiring`, and one resource of deploy/template.yaml that names this module's `handler` as its command.
"""
