"""What people read: the table in the terminal and the executed notebooks."""
