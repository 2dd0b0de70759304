"""Is this workstation ready? Checks from cause to consequence."""
