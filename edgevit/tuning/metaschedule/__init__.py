"""Functions that TVM imports, tuned by TVM's MetaSchedule with edgevit's builders, devices, guards and log."""
