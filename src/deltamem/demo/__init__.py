"""The embedded backbone, the toy world it lives in, its adapters, and the demo that shows them."""
