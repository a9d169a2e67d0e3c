"""What tests share: hands that play the worker, servers and fakes, and how to wait for them."""
