"""The components of the pages. They show all values as text, never as markup, because titles are untrusted."""
