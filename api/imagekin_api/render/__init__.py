"""Results as clients download them: contact sheets, lines of JSON, CSV."""
