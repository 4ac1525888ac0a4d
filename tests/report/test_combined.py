"""The page of all studies of one profile: the paper's layout, every claim, and its sources."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from all_records import retell, write_all_studies
from pages import Page, content, read_csv, section
from question_records import question_run_id, write_question_study
from records import change_arrays, change_record, make_plan, run_id, write_study

from litevl.errors import DataError
from litevl.record import read_arrays, write_plan
from litevl.report import render_report
from litevl.report.page import render_all

no_pictures = pytest.mark.usefixtures("no_pictures")
VARIANTS = ("full", "no-temporal-attention")
METRICS = ("t2v/R@1", "t2v/R@5", "t2v/R@10", "t2v/MdR")


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all") / "records"
    write_all_studies(folder, VARIANTS)
    return folder


@pytest.fixture(scope="module")
def page(records_dir: Path) -> Path:
    return render_report(records_dir, records_dir.parent)


def headings(page: Path) -> list[str]:
    return re.findall(r'scope="colgroup">([^<]*)<', section(page, "combined"))


def test_several_studies_give_one_page_and_folder_beside_theirs(page: Path) -> None:
    assert page.parent.name == "combined-mini"
    assert set(content(page.parent)) == {
        *("index.html", "report.md", "figures/claims.png"),
        *(
            f"tables/{name}.{end}"
            for name in ("claims", "combined", "studies", "verdicts")
            for end in ("csv", "tex")
        ),
    }
    for name in ("msrvtt", "didemo", "msvd-qa", "msrvtt-qa"):
        assert (page.parent.parent / f"{name}-mini" / "index.html").is_file()


def test_columns_are_the_papers_in_its_order_with_their_counts(page: Path) -> None:
    assert headings(page) == [
        *("MSRVTT, 60 captions", "DiDeMo, 60 captions"),
        *("MSVD-QA, 100 questions", "MSRVTT-QA, 100 questions"),
    ]
    labels = [
        *(
            f"{name} {label}"
            for name in ("MSRVTT", "DiDeMo")
            for label in ("R@1", "R@5", "R@10", "MdR")
        ),
        *("MSVD-QA accuracy", "MSRVTT-QA accuracy"),
    ]
    assert (
        "| " + " | ".join(("variant", "seeds", *labels)) + " |"
        in (page.parent / "report.md").read_text()
    )
    assert r"\cmidrule(lr){3-6}" in (page.parent / "tables" / "combined.tex").read_text()


def test_numbers_are_those_of_the_studies_own_reports(page: Path) -> None:
    rows = [row for row in read_csv(page, "combined") if row["value"]]
    assert len(rows) == 2 * (4 + 4 + 1 + 1) + 2 * 3
    for spec in ("msrvtt", "didemo", "msvd-qa", "msrvtt-qa"):
        own = read_csv(page.parent.parent / f"{spec}-mini" / "index.html", "main")
        found = {(row["variant"], row["metric"]): row for row in own}
        for row in rows:
            if row["spec"] == spec:
                same = found[row["variant"], row["metric"]]
                assert {name: row[name] for name in same} == same
                assert row["seeds"]
                assert row["commits"] == "a" * 40


def test_intervals_stand_below_and_baselines_only_under_questions(page: Path) -> None:
    shown = section(page, "combined")
    foot = shown.split('<tbody class="foot">')[1]
    assert foot.count('class="blank"') == 3 * (8 + 1)  # eight columns of retrieval, and the seeds
    assert foot.count("<small>[") == 2 * 3
    for title in ("Majority answer", "Majority answer of each type", "Answerable"):
        assert f"{title}<small>" in foot
    assert shown.count("<small>[") == 2 * 10 + 2 * 3


def test_every_claim_has_a_verdict_on_every_data_set_and_leads_to_its_report(page: Path) -> None:
    rows = read_csv(page, "claims")
    assert [row["dataset"] for row in rows] == ["MSRVTT", "DiDeMo", "MSVD-QA", "MSRVTT-QA"]
    for row in rows:
        own = read_csv(page.parent.parent / f"{row['spec']}-mini" / "index.html", "claims")
        assert [row[name] for name in own[0]] == list(own[0].values())
    links = [link for link in Page(page).links if link.startswith("..")]
    assert len(links) == 4 + 4
    for link in links:
        path, _, part = link.partition("#")
        target = (page.parent / path).read_text()
        assert not part or f'<section id="{part}">' in target
    assert "[DiDeMo](../didemo-mini/index.html#claims)" in (page.parent / "report.md").read_text()
    assert "Claims: " in Page(page).text


@no_pictures
def test_same_claim_stands_together_whatever_the_order_of_the_plans(tmp_path: Path) -> None:
    write_all_studies(tmp_path / "records", VARIANTS)
    for path in (tmp_path / "records").glob("*/mini.plan.json"):
        plan = json.loads(path.read_text())
        (claim,) = plan["claims"]
        more = claim | {"name": "other", "better": "no-temporal-attention", "worse": "full"}
        plan["claims"] = [claim, more] if path.parent.name == "msrvtt" else [more, claim]
        path.write_text(json.dumps(plan))
    report = render_report(tmp_path / "records", tmp_path)
    names = [row["claim"] for row in read_csv(report, "claims")]
    assert names == ["temporal-attention-helps"] * 4 + ["other"] * 4


def test_page_says_runs_seeds_code_data_and_weights_of_every_study(page: Path) -> None:
    rows = read_csv(page, "studies")
    assert [row["spec"] for row in rows] == ["msrvtt", "didemo", "msvd-qa", "msrvtt-qa"]
    for row in rows:
        assert row["runs"] == "2 complete"
        assert (row["seeds"], row["commits"], row["data"]) == ("0", "a" * 40, "f" * 64)
        assert row["weights"] == "mini-blip " + "b" * 64
        assert len(row["ids"].split()) == 2
    latex = (page.parent / "tables" / "combined.tex").read_text()
    assert latex.startswith("% msrvtt, mini profile; commits: " + "a" * 40 + "\n% didemo")
    assert "nox -s reproduce-msvd-qa" in section(page, "again")


def test_scope_of_the_profile_stands_first_and_last(page: Path) -> None:
    text = page.read_text()
    assert text.count("never set beside the paper&#39;s") == 2
    assert text.index("never set beside") < text.index("<section") < text.rindex("never set beside")
    markdown = (page.parent / "report.md").read_text()
    assert markdown.startswith("# LiteVL on all data sets: mini profile\n\n**Mini profile")
    assert markdown.rstrip().endswith("never set beside the paper's.")


def test_same_records_give_the_same_bytes(page: Path, records_dir: Path, tmp_path: Path) -> None:
    assert content(render_report(records_dir, tmp_path).parent) == content(page.parent)


@no_pictures
def test_profiles_never_share_a_table(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, ["full"])
    write_question_study(records, ["full"])
    write_study(records, ["full"], profile="paper")
    pages, shared = render_all(records, tmp_path)
    assert [path.parent.name for path in pages] == ["msrvtt-mini", "msvd-qa-mini", "msrvtt-paper"]
    assert [path.parent.name for path in shared] == ["combined-mini"]
    assert b"paper profile" not in (shared[0].parent / "index.html").read_bytes()
    write_question_study(records, ["full"], profile="paper")
    _, shared = render_all(records, tmp_path)
    assert [path.parent.name for path in shared] == ["combined-mini", "combined-paper"]
    for path in shared:
        profile = path.parent.name.removeprefix("combined-")
        ids = " ".join(row["ids"] for row in read_csv(path, "studies")).split()
        assert ids
        assert all(f"-{profile}-" in name for name in ids)
    assert render_report(records, tmp_path) == tmp_path


@no_pictures
def test_what_did_not_run_says_so_and_why(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, VARIANTS)
    questions = write_question_study(records, VARIANTS)
    change_record(
        records / "msrvtt",
        run_id("full", 0),
        lambda r: r["run"].update(comparable=False, not_comparable_because=["7 clips missing"]),
    )
    change_record(
        questions,
        question_run_id("full", 0),
        lambda r: r.update(status="failed", error="loss is NaN", metrics={}),
    )
    for path in questions.glob("*no-temporal*"):
        path.unlink()
    plan = json.loads((questions / "mini.plan.json").read_text())
    plan["variants"] = [v for v in plan["variants"] if v["name"] != "no-scaling"]
    (questions / "mini.plan.json").write_text(json.dumps(plan))
    report = render_report(records, tmp_path)
    rows = re.findall(r"<tr>.*?</tr>", section(report, "combined"))[1:]
    words = [re.findall(r'<span class="tone quiet">([^<]*)<', row) for row in rows]
    not_run = ["not run"] * 4
    assert words[0] == ["not comparable"] * 4 + not_run + ["failed", "not run"]
    assert words[1] == [*not_run, "not run", "not run"]
    assert words[2] == [*not_run, *not_run, "-", "not run"]
    assert headings(report) == ["MSRVTT, 60 captions", "DiDeMo", "MSVD-QA", "MSRVTT-QA"]
    text = Page(report).text
    assert "No run planned yet: DiDeMo, MSRVTT-QA." in text
    assert "2 complete, 1 failed, 1 not run" in text
    assert '<tbody class="foot">' not in report.read_text()
    assert {row["verdict"] for row in read_csv(report, "claims")} == {"not run"}
    assert not (report.parent / "figures" / "claims.png").exists()


@no_pictures
def test_seeds_that_differ_are_given_data_set_by_data_set(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, ["full"], seeds=[0, 1])
    write_question_study(records, ["full"])
    shown = section(render_report(records, tmp_path), "combined")
    assert "MSRVTT 0, 1; MSVD-QA 0" in shown


@no_pictures
def test_two_studies_of_one_data_set_keep_apart(tmp_path: Path) -> None:
    records = tmp_path / "records"
    folder = write_study(records, ["full"])
    other = retell(folder, "didemo")
    for path in other.glob("*-s0-*.json"):
        record = json.loads(path.read_text())
        record["data"]["dataset"] = "msrvtt"
        path.write_text(json.dumps(record))
    report = render_report(records, tmp_path)
    assert headings(report)[:2] == ["MSRVTT (didemo), 60 captions", "MSRVTT (msrvtt), 60 captions"]


@no_pictures
def test_study_of_an_unknown_data_set_comes_last(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, ["full"])
    plan = make_plan(["mine-mini-full-s0-00000000"], spec_file="mine.toml")
    write_plan(records / "mine", "mini", plan)
    assert headings(render_report(records, tmp_path))[-1] == "mine"


@no_pictures
def test_run_of_one_study_renders_the_combined_page_again(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, VARIANTS)
    alone = render_report(records, tmp_path, spec="msrvtt", profile="mini")
    assert alone == tmp_path / "msrvtt-mini" / "index.html"
    assert not (tmp_path / "combined-mini").exists()
    write_question_study(records, VARIANTS)
    found = render_report(records, tmp_path, spec="msrvtt", profile="mini")
    assert found == alone
    combined = tmp_path / "combined-mini" / "index.html"
    assert all((combined.parent / link).is_file() for link in Page(combined).files)
    own = tmp_path / "msvd-qa-mini" / "index.html"
    own.write_text("rendered before")
    assert render_all(records, tmp_path, "msrvtt", "mini") == ([alone], [combined])
    assert own.read_text() == "rendered before"


@no_pictures
def test_other_code_and_other_weights_of_a_study_are_warned_about(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, ["full"])
    folder = write_question_study(records, VARIANTS)
    change_record(
        folder,
        question_run_id("full", 0),
        lambda r: (r["code"].update(commit="b" * 40), r["weights"].update(sha256="c" * 64)),
    )
    text = Page(render_report(records, tmp_path)).text
    assert "MSVD-QA: The runs come from 2 different commits" in text
    assert "The data sets' runs come from 2 different commits." in text
    assert "The data sets' runs did not all start from the same weights." in text


@no_pictures
def test_markup_in_titles_stays_text_and_odd_folders_keep_their_links(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, VARIANTS)
    folder = write_question_study(records, VARIANTS)
    hostile = '<script>alert("x")</script> | [b](http://c.d) & $1'
    for path in folder.glob("*-s0-*.json"):
        record = json.loads(path.read_text())
        record["run"] |= {"title": hostile, "profile_reason": hostile}
        record["weights"]["source"] = hostile
        path.write_text(json.dumps(record))
    plan = json.loads((folder / "mini.plan.json").read_text())
    plan["claims"][0]["sentence"] = plan["command"] = hostile
    (folder / "mini.plan.json").write_text(json.dumps(plan))
    shutil.move(folder, folder.with_name("a (b) c"))
    report = render_report(records, tmp_path)
    found = Page(report)
    assert "script" not in found.tags
    assert found.text.count("<script>") == 5
    markdown = (report.parent / "report.md").read_text()
    assert "](../a%20%28b%29%20c-mini/index.html" in markdown
    assert "<script>" not in re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)


@no_pictures
def test_spec_named_as_the_page_itself_is_refused(tmp_path: Path) -> None:
    write_plan(tmp_path / "combined", "mini", make_plan(["combined-mini-full-s0-00000000"]))
    with pytest.raises(DataError, match=r"(?s)page of all data sets.*another name"):
        render_report(tmp_path, tmp_path)


@no_pictures
def test_verdicts_at_one_glance_are_those_of_the_claims(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, ["full", "no-scaling"], seeds=(0, 1))
    write_question_study(records, ["full", "no-scaling"])
    backwards = {"name": "worse", "better": "no-temporal-attention", "worse": "full"}
    forwards = {"name": "missing", "better": "full", "worse": "no-temporal-attention"}
    against = {"name": "against", "better": "no-scaling", "worse": "full"}
    for study, metric in (("msrvtt", "t2v/R@1"), ("msvd-qa", "accuracy")):
        path = records / study / "mini.plan.json"
        plan = json.loads(path.read_text())
        said = {"metric": metric, "sentence": "It is."}
        plan["claims"] = [claim | said for claim in (backwards, forwards, against)]
        path.write_text(json.dumps(plan))
    page = render_report(records, tmp_path)
    found = {row["claim"]: row for row in read_csv(page, "verdicts")}
    assert len(found) == 3
    claims = read_csv(page, "claims")
    assert len(claims) == 6
    names = {one["name"]: f"{one['better']} above {one['worse']}" for one in
             (backwards, forwards, against)}  # fmt: skip
    for row in claims:
        told = row["verdict"]
        if row["value"]:
            sign = "+" if float(f"{float(row['value']):.1f}") > 0 else ""
            ends = f"[{float(row['low']):.1f}, {float(row['high']):.1f}]"
            told += f" {sign}{float(row['value']):.1f} {ends}"
        assert found[names[row["claim"]]][row["dataset"]] == told
    assert any(float(row["value"]) < 0 for row in claims if row["value"])
    assert any(not row["value"] for row in claims)


@no_pictures
def test_two_claims_about_the_same_variants_both_have_a_verdict(tmp_path: Path) -> None:
    records = tmp_path / "records"
    path = write_study(records, VARIANTS) / "mini.plan.json"
    write_question_study(records, VARIANTS)
    plan = json.loads(path.read_text())
    plan["claims"].append(plan["claims"][0] | {"name": "order", "metric": "order_accuracy"})
    path.write_text(json.dumps(plan))
    report = render_report(records, tmp_path)
    first, second = read_csv(report, "verdicts")
    pair = "full above no-temporal-attention"
    assert first["claim"] == f"{pair} temporal-attention-helps"
    assert second["claim"] == f"{pair} order"
    assert first["MSRVTT"] != second["MSRVTT"]
    assert first["MSVD-QA"] != second["MSVD-QA"] == "-"


@no_pictures
def test_picture_is_described_with_the_differences_that_the_tables_show(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_all_studies(records, VARIANTS)
    full, other = (run_id(variant, 0) for variant in VARIANTS)
    ranks = read_arrays(records / "msrvtt" / f"{full}.json")["t2v_ranks"]
    change_arrays(records / "msrvtt", other, t2v_ranks=ranks)
    for name in (full, other):
        told = name.replace("msrvtt", "didemo")
        change_arrays(records / "didemo", told, clusters=np.zeros(len(ranks), int))
    shown = render_report(records, tmp_path).read_text()
    assert "MSRVTT full minus no-temporal-attention 0.0;" in shown
    assert "DiDeMo full minus no-temporal-attention inconclusive;" in shown
