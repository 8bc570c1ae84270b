"""Tuning records: the best known choices for a kernel on a device, shared between models."""
