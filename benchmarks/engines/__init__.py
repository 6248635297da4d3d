"""What engines do on real cards: run by hand where there is one; results go to docs/measured/."""
