"""Ratios measured side by side: ours and a peer's, same models, same data, one run."""
