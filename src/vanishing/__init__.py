"""Why deep plain CNNs do not train, and what cures it."""
