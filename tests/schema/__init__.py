"""Laws of the catalog, and the artefacts made from it."""
