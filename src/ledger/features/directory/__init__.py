"""The names of workspaces, projects and resources, and the search for them."""
