"""Networks that no library has, and where weights come from."""
