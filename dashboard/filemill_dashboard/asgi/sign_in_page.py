"""The pages on which a browser signs in and out. They load nothing else: without sign-in nothing else is served."""

import html
from collections.abc import Mapping
from typing import Literal

_STYLE = """
:root { color-scheme: light dark; font: 14px/1.5 Inter, system-ui, "Segoe UI", Roboto, sans-serif;
  --text: #1c262f; --muted: #566470; --page: #fdfdfd; --box: #f4f6f7; --line: #e1e6ea; --primary: #0e7490;
  --on-primary: #fff; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --text: #e4eaee; --muted: #9fb0bc; --page: #12181d; --box: #1a2229;
  --line: #2c3842; --primary: #3fb1cc; --on-primary: #0b1216; --bad: #ff8a7a; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 16px;
  background: var(--page); color: var(--text); }
main { width: 100%; max-width: 380px; padding: 28px; background: var(--box); border: 1px solid var(--line);
  border-radius: 10px; }
h1 { margin: 0 0 4px; font-size: 18px; }
p { margin: 0 0 18px; color: var(--muted); }
p[role=alert] { color: var(--bad); }
label { display: block; margin-bottom: 6px; font-weight: 600; }
input, button { width: 100%; height: 38px; border-radius: 7px; font: inherit; }
input { padding: 0 10px; margin-bottom: 16px; border: 1px solid var(--muted); background: var(--page); color: inherit; }
button { border: 0; background: var(--primary); color: var(--on-primary); font-weight: 600; cursor: pointer; }
a.button { display: grid; place-items: center; height: 38px; margin: 0 0 10px; border-radius: 7px;
  background: var(--primary); color: var(--on-primary); font-weight: 600; text-decoration: none; }
p { overflow-wrap: anywhere; }
a { display: inline-block; margin-top: 16px; color: var(--primary); }
:focus-visible { outline: 2px solid var(--primary); outline-offset: 2px; }
code { font-family: "JetBrains Mono", ui-monospace, Menlo, monospace; font-size: 12.5px; }
"""
WRONG_TOKEN = "The token is wrong. A new one is created at each start of <code>filemill up</code>."  # noqa: S105 - a sentence
WRONG_PASSWORD = "The name or the password is wrong."  # noqa: S105 - a sentence
TOO_MANY = "Too many attempts. Try again in a minute."
_FORMS = {
    "token": """<p>Open the address that <code>filemill up</code> printed, or enter the token of
<code>filemill status --json</code>.</p>
{problem}
<form method="post" action="/sign-in">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus>
<button type="submit">Sign in</button>
</form>""",
    "accounts": """<p>An admin creates accounts with <code>filemill users add</code>.</p>
{problem}
<form method="post" action="/sign-in">
<label for="name">Name</label>
<input id="name" name="name" autocomplete="username" autocapitalize="none" maxlength="64" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="256" required>
<button type="submit">Sign in</button>
</form>""",
}


_FORM_OF_SIGN_OUT = """<p>This browser has to sign in again afterwards.</p>
<form method="post" action="/sign-out">
<button type="submit" autofocus>Sign out</button>
</form>
<p><a href="/">Back to the files</a></p>"""


def sign_in_page(mode: Literal["token", "accounts"], problem: str) -> str:
    """The page. `problem` is one of the sentences above, in HTML; empty: none."""
    alert = f'<p role="alert">{problem}</p>' if problem else ""
    return _page("Sign in to filemill", _FORMS[mode].replace("{problem}", alert))


def providers_page(providers: Mapping[str, str], problem: str) -> str:
    """The sign-in page with a button for each provider: its name in URLs, and its label. `problem` is text."""
    alert = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
    buttons = "\n".join(
        f'<a class="button" href="/sign-in/{html.escape(name)}">Sign in with {html.escape(label)}</a>'
        for name, label in providers.items()
    )
    return _page("Sign in to filemill", f"<p>Choose where you have an account.</p>\n{alert}\n{buttons}")


def refused_page(reason: str) -> str:
    """The page for somebody who has signed in but may do nothing. `reason` is text."""
    form = f"""<p role="alert">{html.escape(reason)}</p>
<p><a href="/sign-in">Sign in with another account</a></p>"""
    return _page("You cannot use filemill", form)


def too_many_pages_page(reason: str, retry_seconds: int) -> str:
    """The page for a person with too many open pages. The browser tries again by itself. `reason` is text."""
    body = f"""<p role="alert">{html.escape(reason)}.</p>
<p>This page opens when another one is closed.</p>"""
    return _page("Too many open pages", body, f'<meta http-equiv="refresh" content="{retry_seconds}">')


def proxy_page(public_url: str) -> str:
    """The page for a browser that did not come through the proxy that signs people in."""
    where = html.escape(public_url)
    link = f'<p><a href="{where}">Open {where}</a></p>' if public_url else ""
    return _page(
        "Not signed in", f"<p>A reverse proxy signs people in. Open filemill by the proxy's address.</p>{link}"
    )


def signed_out_page(provider_url: str | None, *, everywhere: bool) -> str:
    """The page after a sign-out. It leads on to `provider_url`, where the browser signs out too.

    A redirect could not: the Content-Security-Policy allows forms to lead to this page only. `everywhere`: the person
    is not signed in elsewhere.
    """
    if provider_url is not None:
        where = html.escape(provider_url)
        body = f"""<p>You are signed out of filemill. Now you sign out of the provider.</p>
<p><a href="{where}">Continue</a></p>"""
        return _page("Signed out", body, f'<meta http-equiv="refresh" content="0; url={where}">')
    note = "" if everywhere else " You may still be signed in at the provider, which has no sign-out or is unreachable."
    return _page("Signed out", f'<p>You are signed out of filemill.{note}</p>\n<p><a href="/sign-in">Sign in</a></p>')


def sign_out_page() -> str:
    """The page that asks whether to sign out. A link alone signs nobody out."""
    return _page("Sign out of filemill?", _FORM_OF_SIGN_OUT)


def _page(title: str, form: str, head: str = "") -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{head}
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{form}
</main>
</body>
</html>
"""
