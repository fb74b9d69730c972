"""The pages: scripts that Streamlit runs, top to bottom, for each viewer."""
