"""What a process is: its rank, its device, and how it is told to stop."""
