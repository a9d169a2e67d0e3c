"""The contract's documents: OpenAPI and the page made of it."""
