"""Commands that are not facts: what people and the service itself ask for."""
