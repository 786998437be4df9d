"""The pages of the console, each a module with its `router`."""
