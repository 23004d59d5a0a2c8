"""The networks: a truncated MobileNet, patch extraction, and attention over a sample's patches."""
