"""Results as clients take them away: contact sheets, lines of JSON, CSV."""
