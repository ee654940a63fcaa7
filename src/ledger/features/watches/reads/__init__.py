"""The preview of a watch: the episodes that it finds now, and in the past."""
