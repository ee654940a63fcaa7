"""The aggregates of a watch and of an alert; the times in which a condition holds."""
