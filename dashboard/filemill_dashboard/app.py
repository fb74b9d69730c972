"""The Streamlit entry script: declares the pages and runs the selected one."""

from pathlib import Path

import streamlit as st

import filemill
from filemill_dashboard.components import status_style
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.state.principals import page_principal
from filemill_dashboard.state.services import current

st.set_page_config(
    page_title="filemill",
    page_icon=str(Path(__file__).with_name("static") / "icon.svg"),
    layout="wide",
    menu_items={"About": f"filemill {filemill.__version__}"},
)
PAGES = {
    "files": st.Page("app_pages/files.py", title="Files", url_path="files", default=True),
    "pipeline": st.Page("app_pages/pipeline.py", title="Pipeline", url_path="pipeline"),
    "workers": st.Page("app_pages/workers.py", title="Workers", url_path="workers"),
    "performance": st.Page("app_pages/performance.py", title="Performance", url_path="performance"),
    "letters": st.Page("app_pages/dead_letters.py", title="Dead letters", url_path="letters"),
    "messages": st.Page("app_pages/messages.py", title="Messages", url_path="messages"),
    "experiments": st.Page("app_pages/experiments.py", title="Experiments", url_path="experiments"),
    "activity": st.Page("app_pages/activity.py", title="Activity", url_path="activity"),
    "setup": st.Page("app_pages/setup.py", title="Set-up", url_path="setup"),
    # Mode `local` has no sign-in.
    "account": st.Page(
        "app_pages/account.py",
        title="Account",
        url_path="account",
        visibility="hidden" if current().settings.auth == "local" else "visible",
    ),
    "file": st.Page("app_pages/file.py", title="File", url_path="file", visibility="hidden"),
}
st.session_state["pages"] = PAGES
if page_principal().role is None:
    status_style.apply()
    show_notices("banners", [Notice("warn", "Your session has ended", "Reload the page to sign in again.")])
    st.stop()
st.navigation(list(PAGES.values()), position="hidden").run()
