"""What is fed: mixtures, the index-free order, the ledger, the buffer."""
