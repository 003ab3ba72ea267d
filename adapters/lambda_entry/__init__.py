"""What a Lambda runtime imports: one module a function, each loading only its own model."""
