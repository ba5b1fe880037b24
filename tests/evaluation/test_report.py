"""The HTML report: its data, safety of any text, and what a browser draws."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from embre import faults
from embre.document import Concept, Document, Mention, Passage, Relation
from embre.evaluation.evaluate import evaluate_documents
from embre.evaluation.report import document_view, pieces, report_view, write_report

BRAF = Concept("Gene", "673")
MELANOMA = Concept("Disease", "D008545")
DRUG = Concept("Chemical", "C1")
HOSTILE = "BRAF</script><script>alert(1)</script> & <b>melanoma</b> \u2028 dabrafenib αβ 🧬 BRAF."


def mention(text: str, surface: str, concept: Concept, after: int = 0) -> Mention:
    start = text.index(surface, after)
    end = start + len(surface)
    return Mention(start, end, surface, concept.type, (concept,), concept.type, concept.identifier)


def document(
    doc_id: str, *relations: Relation, text: str = HOSTILE, pmid: str | None = None
) -> Document:
    mentions = (mention(text, "BRAF", BRAF), mention(text, "melanoma", MELANOMA))
    passages = (Passage(0, 4, "title"), Passage(4, len(text), "abstract"))
    return Document(doc_id, text, passages, mentions, relations, pmid)


def relation(head: Concept, tail: Concept, type: str, novel: bool | None, p: float | None = None):
    return Relation(head, tail, type, novel, p)


def test_documents_without_prediction_are_missed_and_without_gold_have_no_outcomes():
    link = relation(BRAF, MELANOMA, "Association", True)
    view = report_view([document("1", link)], [document("2", link)])
    unjudged, unread = view["documents"]
    assert (unjudged["id"], unjudged["tally"], unjudged["relations"][0]["outcome"]) == ("1", {}, "")
    assert (unread["id"], unread["tally"]) == ("2", {"missed": 1})


def test_a_concept_is_named_by_its_most_frequent_form():
    text = "B-raf, BRAF and BRAF"
    mentions = (
        mention(text, "B-raf", BRAF),
        mention(text, "BRAF", BRAF),
        mention(text, "BRAF", BRAF, after=10),
    )
    link = relation(BRAF, DRUG, "Bind", None, 0.9)
    view = document_view(Document("1", text, (Passage(0, 20, "title"),), mentions, (link,)))
    assert [concept["name"] for concept in view["concepts"]] == ["BRAF", "C1"]


def test_nested_and_crossing_mentions_are_all_kept():
    text = "the BRCA1 V600E breast cancer cell"
    variant, cell = Concept("Variant", "v"), Concept("CellLine", "c")
    mentions = (
        mention(text, "BRCA1", BRAF),
        mention(text, "BRCA1 V600E", variant),
        mention(text, "breast cancer", MELANOMA),
        mention(text, "cancer cell", cell),
    )
    passage = Passage(0, len(text), "title")
    cut = pieces(Document("1", text, (passage,), mentions), passage)
    assert cut == [
        ("the ", []),
        ("BRCA1", [1, 0]),
        (" V600E", [1]),
        (" ", []),
        ("breast ", [2]),
        ("cancer", [2, 3]),
        (" cell", [3]),
    ]


class ScriptReader(HTMLParser):
    """The scripts of a page as a browser would delimit them."""

    def __init__(self):
        super().__init__()
        self.scripts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def test_a_hostile_text_stays_data(tmp_path):
    docs = [document("1", relation(BRAF, MELANOMA, "Association", True, 0.5))]
    path = tmp_path / "report.html"
    write_report(path, docs, title="<script>alert(2)</script>", facts={"<i>": "&"})
    page = path.read_text("utf-8")
    reader = ScriptReader()
    reader.feed(page)
    data, code = reader.scripts
    assert json.loads(data) == json.loads(json.dumps(report_view(docs)))
    shown = [text for p in report_view(docs)["documents"][0]["passages"] for text, _ in p["pieces"]]
    assert "".join(shown) == HOSTILE
    assert "alert" not in code and page.count("<script>") == 1


def test_the_page_loads_nothing_from_the_network(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, [document("1")])
    page = path.read_text("utf-8")
    # The name of the SVG namespace, which nobody fetches, and where a link leads that is clicked.
    assert set(re.findall(r"https?://[^\"'\s$]*", page)) == {
        "http://www.w3.org/2000/svg",
        "https://pubmed.ncbi.nlm.nih.gov/",
    }
    assert not re.search(r"\b(src|srcset|href)=[\"'](?!#)|@import|url\(", page)
    assert "default-src 'none'" in page


def test_a_probability_that_is_no_number_is_refused(tmp_path):
    broken = document("1", relation(BRAF, MELANOMA, "Bind", True, float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path / "report.html", [broken])


def browse(page: Path) -> str:
    """The page as a browser has it once it is loaded."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no `chromium` on PATH; apt-get install chromium to run this test")
    user = page.with_name("user")
    quiet = "gpu quic background-networking component-update sync"
    flags = ["--headless", "--no-sandbox", "--no-first-run", f"--user-data-dir={user}"]
    flags += [f"--disable-{feature}" for feature in quiet.split()]
    command = [chromium, *flags, "--dump-dom", page.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "</html>" in dumped.stdout, dumped.stderr
    return dumped.stdout


@pytest.mark.slow
def test_a_browser_draws_the_chosen_document(tmp_path: Path):
    predicted = [document("1", relation(BRAF, MELANOMA, "Positive_Correlation", True, 0.93))]
    write_report(tmp_path / "report.html", predicted, predicted)
    dom = browse(tmp_path / "report.html")
    assert re.search(r"<mark[^>]*>BRAF</mark>", dom)
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in dom
    (row,) = re.findall(r"<tr data-relation=.*?</tr>", dom, re.DOTALL)
    assert "melanoma" in row and "Positive Correlation" in row and "0.93" in row
    assert "correct" in row and dom.count("<svg") == 1


CURATOR = """<script>
const count = (what) => document.querySelectorAll(what).length;
const seen = [[count("#list li"), count("tr[data-relation]")]];
for (const name of ["Association", "correct", "Association"]) {
  const chips = [...document.querySelectorAll("button.chip")];
  chips.find((chip) => chip.textContent.endsWith(name)).click();
  seen.push([count("#list li"), count("tr[data-relation]")]);
}
const shown = document.createElement("pre");
shown.id = "seen";
const found = document.getElementById("found").textContent;
shown.textContent = JSON.stringify({ seen, found });
document.body.append(shown);
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("pmid, shown", [("7", "PubMed 7"), ("1", "PubMed"), (None, None)])
def test_a_document_of_pubmed_has_a_link_to_it(tmp_path: Path, pmid: str | None, shown: str | None):
    write_report(tmp_path / "report.html", [document("1", pmid=pmid)])
    found = re.findall(
        r'<a href="(https:[^"]*)"[^>]*>([^<]*)</a>', browse(tmp_path / "report.html")
    )
    assert found == ([(f"https://pubmed.ncbi.nlm.nih.gov/{pmid}/", shown)] if pmid else [])


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    write_report(path, [document("1")], title="old")
    monkeypatch.setattr(faults, "_armed", [])
    faults.arm("half_written:1:raise", tmp_path, rank=0)
    with pytest.raises(RuntimeError):
        write_report(path, [document("1")], title="new")
    assert "<h1>old</h1>" in path.read_text("utf-8")


@pytest.mark.slow
def test_of_500_documents_one_is_drawn_and_chips_leave_what_they_name(tmp_path: Path):
    predicted, gold = [], []
    for number in range(500):
        types = ("Association", "Bind") if number % 2 else ("Bind", "Association")
        right = relation(BRAF, MELANOMA, types[number % 4 >= 2], True)
        said = relation(BRAF, MELANOMA, types[0], True, 0.8)
        more = relation(BRAF, DRUG, "Cotreatment", False, 0.6)
        predicted.append(document(str(number), said, more))
        gold.append(document(str(number), right))
    page = tmp_path / "report.html"
    write_report(page, predicted, gold)
    page.write_text(page.read_text("utf-8").replace("</body>", CURATOR + "</body>"), "utf-8")
    told = json.loads(re.findall(r'<pre id="seen">(.*?)</pre>', browse(page))[0])
    # All, one of them drawn; what is called an Association; what rightly is; whatever is right.
    assert told["seen"] == [[500, 2], [250, 1], [125, 1], [250, 1]]
    assert told["found"] == "250 of 500 documents"


def test_an_evaluation_has_a_section_and_loads_nothing_from_the_network(tmp_path):
    gold = [document("1", relation(BRAF, MELANOMA, "Association", True))]
    said = [document("1", relation(BRAF, MELANOMA, "Bind", True, 0.7))]
    path = tmp_path / "report.html"
    write_report(path, said, gold, evaluation=evaluate_documents(gold, said, training=gold))
    page = path.read_text("utf-8")
    assert '<details class="evaluation">' in page and "1 wrong type" in page
    assert page.count("<svg ") == 2 and "Seen in training" in page
    assert not re.search(r"\b(src|srcset|href)=[\"'](?!#)|@import|url\(", page)
    write_report(path, said, gold)
    assert '<details class="evaluation">' not in path.read_text("utf-8")


def test_an_evaluation_of_nothing_found_can_be_shown(tmp_path):
    gold = [document("1"), document("2")]
    path = tmp_path / "report.html"
    write_report(path, gold, gold, evaluation=evaluate_documents(gold, gold))
    assert "Errors: none" in path.read_text("utf-8")
