"""The page on which a browser signs in. It loads nothing else: without sign-in nothing else is served."""

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
:focus-visible { outline: 2px solid var(--primary); outline-offset: 2px; }
code { font-family: "JetBrains Mono", ui-monospace, Menlo, monospace; font-size: 12.5px; }
"""
_WRONG = '<p role="alert">The token is wrong. A new one is created at each start of <code>filemill up</code>.</p>'


def sign_in_page(*, wrong: bool) -> str:
    """The page. `wrong`: a token was given and is wrong."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in to filemill</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Sign in to filemill</h1>
<p>Open the address that <code>filemill up</code> printed, or enter the token of
<code>filemill status --json</code>.</p>
{_WRONG if wrong else ""}
<form method="post" action="/sign-in">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus>
<button type="submit">Sign in</button>
</form>
</main>
</body>
</html>
"""
