"""The embedded network against a real kernel, in network namespaces that nothing outside can see."""
