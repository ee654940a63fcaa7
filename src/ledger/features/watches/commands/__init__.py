"""Commands on watches and alerts."""
