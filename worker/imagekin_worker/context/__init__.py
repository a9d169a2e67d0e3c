"""What a worker's process holds while it works: its state, the lease on its claims, and what it logs of them."""
