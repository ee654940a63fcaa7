"""The pages of sign-in: sessions, organizations, names of persons."""
