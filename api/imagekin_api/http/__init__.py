"""HTTP as every route needs it: who asks, bodies, pages, problems, idempotency."""
