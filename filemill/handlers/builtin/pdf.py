"""The handler `pdf`: Markdown, or a template with data, as a PDF by typst.

The operator names the folder of the templates in `FILEMILL_HANDLERS_TEMPLATES`. A request chooses one by its name, and
its data are passed as JSON. A template can read the files of its folder, and no others.
"""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from filemill.errors import InvalidHandler
from filemill.handlers import Handler, Job, PermanentError, handler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token

_PAGE = """#set document(title: sys.inputs.title, date: none)
#set page(paper: "a4", margin: 2.5cm, numbering: "1 / 1")
#set text(size: 11pt)
#set par(justify: true)
"""
# Block tokens: what is written at their begin and at their end.
_BLOCKS = {
    "paragraph_open": "",
    "paragraph_close": "\n\n",
    "heading_close": "]\n\n",
    "bullet_list_open": "#list(",
    "bullet_list_close": ")\n\n",
    "ordered_list_open": "#enum(",
    "ordered_list_close": ")\n\n",
    "list_item_open": "[",
    "list_item_close": "],",
    "blockquote_open": "#quote(block: true)[",
    "blockquote_close": "]\n\n",
    "hr": "#line(length: 100%)\n\n",
    "em_open": "#emph[",
    "em_close": "]",
    "strong_open": "#strong[",
    "strong_close": "]",
    "link_close": "]",
    "softbreak": " ",
    "hardbreak": " #linebreak() ",
}


TEMPLATE_NAME = "[a-z0-9][a-z0-9_-]{0,63}"
_TEMPLATE_NAME = re.compile(TEMPLATE_NAME)
# Files of the folder beyond this size in all are no templates.
TEMPLATES_MAX_BYTES = 256 * 2**20
_VERSION = "2"


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """Either `markdown`, a text in CommonMark without images and HTML, or `template` with `data`."""

    markdown: str = ""
    template: Annotated[str, msgspec.Meta(pattern=f"^({TEMPLATE_NAME})?$")] = ""
    data: dict[str, Any] = {}


def pdf_handler(templates: str = "") -> Handler:
    """The handler, with the templates of this folder; "" for none. Raises InvalidHandler.

    Its version changes with the templates, because they change the bytes of its results.
    """

    @handler(
        "pdf",
        content_type="application/pdf",
        extension="pdf",
        deterministic=True,
        timeout=60,
        memory="1 GiB",
        attempts=2,
        version=f"{_VERSION}-{_digest(Path(templates))}" if templates else _VERSION,
    )
    def pdf(job: Job[Document]) -> bytes:
        wanted = job.parameters
        if bool(wanted.markdown) == bool(wanted.template):
            raise PermanentError('The handler "pdf" needs either "markdown" or "template" in its parameters')
        if wanted.template:
            return _of_template(job, Path(templates) if templates else None)
        if wanted.data:
            raise PermanentError('"data" are for a template. Name one with "template", or leave them out')
        return _of_markdown(job)

    return pdf


def template_names(folder: Path | None) -> list[str]:
    """The names of the templates of a folder, sorted."""
    if folder is None:
        return []
    return sorted(path.stem for path in folder.glob("*.typ") if _TEMPLATE_NAME.fullmatch(path.stem) and path.is_file())


def _digest(folder: Path) -> str:
    """What identifies the files of a folder. Raises InvalidHandler."""
    found = hashlib.sha256()
    size = 0
    try:
        if not folder.is_dir():
            raise InvalidHandler(f"FILEMILL_HANDLERS_TEMPLATES names {folder}, which is not a folder")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size += path.stat().st_size
                if size > TEMPLATES_MAX_BYTES:
                    raise InvalidHandler(
                        f"The folder {folder} of FILEMILL_HANDLERS_TEMPLATES has more than {TEMPLATES_MAX_BYTES} bytes."
                        " Name a folder that has only templates and what they use"
                    )
                name = path.relative_to(folder).as_posix().encode()
                found.update(b"%d %s %s" % (len(name), name, hashlib.sha256(path.read_bytes()).digest()))
    except OSError as error:
        raise InvalidHandler(f"The templates of FILEMILL_HANDLERS_TEMPLATES cannot be read: {error}") from error
    return found.hexdigest()[:12]


def _of_template(job: Job[Document], folder: Path | None) -> bytes:
    """Render a template. It gets the title and, as JSON, the data; none of it is code for typst."""
    import typst  # noqa: PLC0415

    name, known = job.parameters.template, template_names(folder)
    source = folder / f"{name}.typ" if folder is not None and name in known else None
    # A link that leads out of the folder is refused, like a name that is no plain name.
    if folder is None or source is None or not source.resolve().is_relative_to(folder.resolve()):
        raise PermanentError(f'There is no template "{name}". There are: {", ".join(known) or "none"}')
    try:
        return typst.compile(
            source,
            root=folder,
            format="pdf",
            sys_inputs={"title": job.title, "data": msgspec.json.encode(job.parameters.data).decode()},
            # `datetime.today()` in a template is the time of the request.
            timestamp=int(job.requested_at.timestamp()),
        )
    except typst.TypstError as error:
        raise PermanentError(f'The template "{name}" cannot be rendered with these data: {error}') from None


def _of_markdown(job: Job[Document]) -> bytes:
    """Render the text. Nothing of it is code for typst: all text is passed as strings."""
    import typst  # noqa: PLC0415
    from markdown_it import MarkdownIt  # noqa: PLC0415

    tokens = MarkdownIt("commonmark", {"html": False}).parse(job.parameters.markdown)
    source = job.folder / "source.typ"
    source.write_text(_PAGE + _typst(tokens), encoding="utf-8")
    try:
        return typst.compile(source, root=job.folder, format="pdf", sys_inputs={"title": job.title})
    except typst.TypstError as error:
        raise PermanentError(f"The text cannot be rendered: {error}") from None


def _typst(tokens: "Sequence[Token]") -> str:
    parts = []
    for token in tokens:
        match token.type:
            case "inline":
                parts.append(_typst(token.children or []))
            case "text":
                parts.append(f"#{_string(token.content)};")
            case "heading_open":
                parts.append(f"#heading(level: {token.tag[1:]})[")
            case "code_inline":
                parts.append(f"#raw({_string(token.content)});")
            case "fence" | "code_block":
                parts.append(f"#raw({_string(token.content)}, block: true)\n\n")
            case "link_open":
                parts.append(f"#link({_string(str(token.attrs.get('href', '')))})[")
            case name:
                parts.append(_BLOCKS.get(name, ""))
    return "".join(parts)


def _string(text: str) -> str:
    """A string of typst."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "").replace("\t", "\\t")
    return f'"{escaped}"'
