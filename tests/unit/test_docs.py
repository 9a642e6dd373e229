"""Pages that repeat what the code says are compared with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from docs import generate_causes, generate_fields, generate_templates
from finetune_contract.exitcodes import ExitCode
from finetune_operator.core import identity
from finetune_operator.core.stages import EXITS, EndKind

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("helm/*/*.md")]
)


def test_the_page_of_fields_is_what_the_crds_say() -> None:
    assert generate_fields.PAGE.read_text() == generate_fields.render(), "run: python -m docs.generate_fields"


def test_the_page_of_templates_is_what_the_tests_hold() -> None:
    assert generate_templates.PAGE.read_text() == generate_templates.render(), "run: python -m docs.generate_templates"


def test_the_page_of_fields_names_what_starts_no_new_run() -> None:
    page = generate_fields.INTRODUCTION
    for path in identity._NOT_TRAINING:
        assert f"`{'.'.join(path)}`" in page


def test_the_page_of_exit_codes_lists_the_contract() -> None:
    page, _, _ = (ROOT / "docs" / "exit-codes.md").read_text().partition("## Causes")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, flags=re.MULTILINE)
    assert rows == [(str(code.value), code.name) for code in ExitCode]


def test_the_page_of_exit_codes_calls_final_what_is_final() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    final = {int(code) for code in re.findall(r"^\| (\d+) \|.*\| final", page, flags=re.MULTILINE)}
    assert final == {code for code, kind in EXITS.items() if kind is EndKind.FINAL}


def test_the_page_of_exit_codes_has_the_causes_of_the_trainer() -> None:
    assert generate_causes.PAGE.read_text() == generate_causes.render(), "run: python -m docs.generate_causes"


def test_the_page_of_classes_lists_the_charts() -> None:
    specs = yaml.safe_load((ROOT / "helm" / "finetune-operator" / "gpuclasses.yaml").read_text())
    page = (ROOT / "docs" / "gpu-classes.md").read_text().partition("## What counts")[0]
    rows = dict(re.findall(r"^\| `([-\w]+)` \| (.*)\|$", page, flags=re.MULTILINE))
    assert list(rows) == list(specs)
    for name, spec in specs.items():
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert cells[1:3] == [spec.get("memory", ""), spec.get("computeCapability", "")]


def test_the_page_of_security_lists_the_rights_of_the_chart() -> None:
    helpers = (ROOT / "helm" / "finetune-operator" / "templates" / "_helpers.tpl").read_text()
    leases = (ROOT / "helm" / "finetune-operator" / "templates" / "rbac.yaml").read_text()
    granted = set(re.findall(r"resources: \[(.+)\]\n +verbs: \[(.+)\]", helpers + leases))
    granted |= set(re.findall(r"resources: \[(.+)\]\n  verbs: \[(.+)\]", helpers + leases))
    page = (ROOT / "docs" / "security.md").read_text()
    told = set(re.findall(r"^\| [^|]*\| `([a-z/]+)` \| ([a-z, ]+) \|", page, flags=re.MULTILINE))
    assert told == granted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_table_of_examples_lists_every_example() -> None:
    table = (ROOT / "examples" / "README.md").read_text()
    listed = re.findall(r"^\| \[([-\w.]+)\]", table, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_reads_the_same_in_yaml_1_1_and_1_2(path: Path) -> None:
    """Python's YAML takes 2e-4 for a string, kubectl for a number; 2.0e-4 is a number for both."""
    document = yaml.safe_load(path.read_text())
    rate = document.get("spec", {}).get("training", {}).get("learningRate", 1.0)
    assert isinstance(rate, float)


# --- CONTRIBUTING ------------------------------------------------------------------------------------------------
def _places() -> list[tuple[str, str, str]]:
    """(what is added, path, name in it or empty) for each place that the table of changes names."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("## Where would I change") : text.index("## Where things are")]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| a")]
    found = re.compile(r"`([\w./-]+/[\w./-]*)`(?: \(`(\w+)`\))?")
    return [(what, match[1], match[2] or "") for what, where in rows for match in found.finditer(where)]


def test_contributing_answers_where_the_likely_changes_go() -> None:
    assert {what for what, _, _ in _places()} >= {
        "a data format",
        "a chat template",
        "an exit code",
        "a condition reason",
        "a metric",
        "a storage error",
        "a CRD field",
        "a GPU label scheme",
        "a stage of a job",
        "a kind of object",
    }


@pytest.mark.parametrize(("what", "path", "name"), _places(), ids=lambda part: part or None)
def test_a_place_to_change_is_there(what: str, path: str, name: str) -> None:
    assert (ROOT / path).exists()
    if name:
        assert re.search(rf"^(class |def )?{name}\b", (ROOT / path).read_text(), re.MULTILINE), (
            f"{name} is not in {path}"
        )
