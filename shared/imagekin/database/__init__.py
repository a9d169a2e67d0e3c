"""The database: connections and transactions, SQL that both engines understand, the tables."""
