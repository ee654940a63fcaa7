"""Traces of OpenTelemetry, whose spans become runs."""
