"""Sign-in of persons by an identity provider: grants, sessions, names."""
