"""Work in the background: expiry, compaction, removal of deleted collections."""
