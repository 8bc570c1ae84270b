"""Parts of linking: tools, flags and stubs of each system, and the inspection of what was linked."""
