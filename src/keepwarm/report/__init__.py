"""What people see: tables and curves."""
