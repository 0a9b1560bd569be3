"""The documentation as a site: strict, without a network, and the same bytes each time."""

import json
import re
import shutil
import subprocess
import sys

import engines
import programs
import pytest

import examples
import vanishing

CONFIGURATION = "docs/site/mkdocs.yml"


def build(project, site, **variables):
    """Build the site of a project; return the ended process."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", project / CONFIGURATION, "-d", site],
        env=engines.environment() | {"NO_MKDOCS_2_WARNING": "1"} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(examples.ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_has_the_same_bytes_whatever_the_day_and_the_surroundings(site, tmp_path, calendar):
    others = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "86400"}
    built = build(examples.ROOT, tmp_path / "elsewhere", **others, **calendar(400))
    assert built.returncode == 0, built.stderr
    again, once = content(tmp_path / "elsewhere"), content(site)
    assert again.keys() == once.keys()
    assert [path for path in once if once[path] != again[path]] == []


def test_a_reader_needs_no_network(site):
    """Links that are followed by hand may lead out; whatever a browser fetches by itself may not."""
    fetched = r'<(?:(?:script|img|iframe|source)\b[^>]*\bsrc|link\b[^>]*\bhref)="(?:https?:)?//'
    for path in site.rglob("*.html"):
        assert not re.search(fetched, path.read_text()), path
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", path.read_text()), path
    assert (site / "index.html").read_text().count("assets/iframe-worker.js") == 1


def test_every_page_is_found_by_the_search_and_whoever_opens_it_from_disk_has_it(site):
    index = (site / "search" / "search_index.json").read_text()
    found = {entry["location"].partition("#")[0] for entry in json.loads(index)["docs"]}
    assert {f"{page.stem}.html" for page in (examples.ROOT / "docs").glob("*.md")} <= found
    assert (site / "search" / "search_index.js").read_text() == f"var __index = {index}"


def test_the_reference_has_every_public_name(site):
    page = (site / "api.html").read_text()
    assert [name for name in vanishing.__all__ if f'id="vanishing.{name}"' not in page] == []


def test_opened_from_disk_it_fits_a_telephone_finds_words_and_asks_for_nothing(site):
    programs.needs("chromium", "playwright")
    from playwright.sync_api import sync_playwright

    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=programs.found("chromium"), args=["--no-sandbox"])
        for scheme, width in (("light", 390), ("dark", 1280)):
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda asked: complaints.extend([asked.url] * (not asked.url.startswith("file:"))))
            for path in sorted(set(site.glob("*.html")) - {site / "404.html"}):  # which servers show, from their root
                page.goto(path.as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
            assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
        page.goto((site / "index.html").as_uri())
        page.get_by_placeholder("Search").click()
        page.keyboard.type("merge conflict")
        page.locator('.md-search-result__link[href*="faq.html"]').first.wait_for()
        browser.close()
    assert complaints == []


def test_a_fault_in_a_page_is_named_and_there_is_no_site(tmp_path):
    for name in ("docs", "src", "examples"):
        shutil.copytree(examples.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
        shutil.copy(examples.ROOT / name, tmp_path)
    with (tmp_path / "docs" / "faq.md").open("a") as page:
        page.write("[a](no.md) [b](data.md#no) [c](../data.md) [d](../CONTRIBUTING.md#no) [e][vanishing.no]\n")
    (tmp_path / "docs" / "lost.md").write_text("# Lost\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    for told in ("'no.md'", "'data.md#no'", "'../data.md'", "'CONTRIBUTING.md#no'", "'vanishing.no'", "lost.md"):
        assert told in built.stderr, told
    assert built.stderr.count("WARNING") == 6
