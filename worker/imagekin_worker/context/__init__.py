"""What a worker's process holds while it works: its state, the leases on its claims, and its log of them."""
