"""Service lines: what they do, their blockers, holds and health."""
