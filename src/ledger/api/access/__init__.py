"""Who may come in: API keys, and tokens of an identity provider."""
