"""The jobs of this team. The name is nobody's: filemill's own package is `filemill_workers`."""
