"""Helpers that tests share: builders of facts, the service in this process, a settable clock."""
