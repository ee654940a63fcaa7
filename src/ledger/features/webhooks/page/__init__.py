"""The pages of endpoints and of channels."""
