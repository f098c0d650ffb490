"""What every command is made of: its configuration, its folder, its processes, its end."""
