"""Candidates become libraries: in processes here, or on a cluster."""
