"""The web console: what the node does, for people with a browser."""
