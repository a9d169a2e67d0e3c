"""HTTP as every route needs it: authentication, bodies, pages, problems, idempotency."""
