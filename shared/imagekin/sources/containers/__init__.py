"""Archives as sources: zip and tar, read member by member and never unpacked."""
