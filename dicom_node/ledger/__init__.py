"""The ledger: what was received, derived and delivered, and every change of state on the way."""
