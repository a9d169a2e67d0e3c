"""What is done when nobody asks: expiry, compaction, removal of deleted collections."""
