"""Settings of the node: the schema, its loading from TOML, and the texts made from it."""
