"""The HTTP application: all routes and pages together, and tools for assistants."""
