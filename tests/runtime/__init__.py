"""The device server: its loader, its sessions, its tracker client and its build."""
