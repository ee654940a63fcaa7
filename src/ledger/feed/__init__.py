"""Feeds: following the log from outside, pulled, streamed and pushed."""
