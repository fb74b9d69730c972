"""The documents name existing files and functions, and their links lead somewhere."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A text in backticks is a path if it begins with a folder of the repository or has one of the suffixes.
FOLDERS = ("filemill/", "dashboard/", "workers/", "infra/", "benchmarks/", "notebooks/", "tests/", "docs/", ".ci/")
MODULE = re.compile(r"`((?:filemill|filemill_\w+|benchmarks)(?:\.\w+)+)`")
METADATA = {"filemill.short"}  # a key in the metadata of a notebook
SUFFIXES = (".py", ".md", ".ipynb")
# A hop of a table: number, file, function.
HOP = re.compile(r"^\| (\d) \| `([^`]+)` \| `([^`]+)` \|", re.MULTILINE)
HOPS_MAX = 6


def paths_in(document: Path) -> set[str]:
    """The texts in backticks that look like paths of the repository; patterns and shell commands are left out."""
    code = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL))
    return {
        text
        for text in code
        if re.fullmatch(r"[\w./-]+", text) and (text.startswith(FOLDERS) or text.endswith(SUFFIXES))
    }


def exists(path: str) -> bool:
    """Whether the path exists, from the root or, for a test, from tests/."""
    return any((folder / path).exists() for folder in (ROOT, ROOT / "tests"))


def definitions(path: Path) -> set[str]:
    """The qualified names of all classes and functions of a module; those inside functions are included."""
    found = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found.update({child.name, prefix + child.name})
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(path.read_text()), "")
    return found


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_named_file_exists(document: Path) -> None:
    assert [path for path in sorted(paths_in(document)) if not exists(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_named_module_can_be_imported(document: Path) -> None:
    for name in sorted(set(MODULE.findall(document.read_text())) - METADATA):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_each_function_of_the_architecture_is_defined_in_its_file() -> None:
    hops = HOP.findall(ARCHITECTURE.read_text())
    assert len(hops) > HOPS_MAX
    assert [(path, name) for _, path, name in hops if name not in definitions(ROOT / path)] == []


def test_each_function_named_with_a_file_in_a_sentence_is_defined_there() -> None:
    text = ARCHITECTURE.read_text() + (ROOT / "docs" / "state-machine.md").read_text()
    named = re.findall(r"`([\w.]+)` in `([\w./-]+\.py)`", text)
    named += [(name, path) for path, name in re.findall(r"`([\w./-]+\.py)` `([\w.]+)`", text)]
    assert named
    assert [(name, path) for name, path in named if name not in definitions(ROOT / path)] == []


def test_a_request_reaches_its_row_in_at_most_six_hops() -> None:
    section = ARCHITECTURE.read_text().split("from `POST /api/files` to the row")[1].split("\n## ")[0]
    numbers = [int(number) for number, _, _ in HOP.findall(section)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) <= HOPS_MAX
