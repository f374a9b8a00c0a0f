"""Pictures: curves, splits of data, published figures."""
