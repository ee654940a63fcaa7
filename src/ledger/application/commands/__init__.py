"""Commands that are not facts: requests of people and of the service itself."""
