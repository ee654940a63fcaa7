"""What a watch would have open now, and what it would have had."""
