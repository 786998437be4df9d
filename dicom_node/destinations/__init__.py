"""Where finished series go: one module for each kind of destination, behind one small interface."""
