"""Results as text for people: terminal tables now, pages later."""
