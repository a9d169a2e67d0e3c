"""The demo: thirty pictures of furniture, and the run that embeds, searches and clusters them."""
