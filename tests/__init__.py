"""The tests: helpers in support, factories and programs; the other folders mirror the packages."""
