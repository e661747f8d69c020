"""The page: every number on it is the records' or the run's, any text is shown as it is, nothing runs or is loaded."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.evaluation.comparison import compare
from mrt5_jax.evaluation.estimates import estimate
from mrt5_jax.evaluation.records import Record, group_by, of_deletion, summarize, to_json_lines
from mrt5_jax.evaluation.sheets import TOTAL, sheets
from mrt5_jax.report.charts import ChartTable
from mrt5_jax.report.contents import ReportSection, report_sections
from mrt5_jax.report.example_charts import MOST_CHANGED, MOST_LETTERS, ExampleChange, TaskExamples, changed_tables
from mrt5_jax.report.page import render_report, render_table
from mrt5_jax.report.reading import RunResults, read_run_results
from mrt5_jax.report.texts import TextsOfModel
from mrt5_jax.report.visible import visible_text
from mrt5_jax.report.writing import REPORT_PAGE, write_report

from ..evaluation.many_records import random_evaluation
from .made_runs import STEP, TARGET, PageReader, deletions_of, make_run, sketch, training_lines, work

NAMES = ("byt5", "mrt5")
DELETED = {"none": 0, "hard": 1}
CONTENTS = st.one_of(st.binary(max_size=24), st.text(max_size=12).map(lambda text: text.encode(errors="replace")))
ALLOWED = {
    *("html", "meta", "title", "style", "h1", "h2", "h3", "nav", "a", "main", "section", "p", "div", "span", "del"),
    *("small", "figure", "figcaption", "svg", "path", "details", "summary", "table", "caption", "thead", "tbody"),
    *("tr", "th", "td", "data", "bdi"),
}


class Made:
    """A report of two runs, and what it was made of."""

    def __init__(self, folder: Path) -> None:
        runs = [make_run(folder / name, seed=number) for number, name in enumerate(NAMES)]
        self.records: dict[str, list[Record]] = dict(zip(NAMES, (records for _, records in runs), strict=True))
        self.runs = [read_run_results(str(path)) for path, _ in runs]
        page = write_report(folder / "report", "title", report_sections(self.runs), draw=sketch)
        self.text = Path(page).read_text(encoding="utf-8")
        self.page = PageReader(self.text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("runs"))


def test_every_table_is_looked_at_by_a_test(made: Made) -> None:
    """So that no new one goes unchecked: all numbers of a page stand in tables, those of its charts too."""
    charts = ["training_loss", "deletion", "alpha", "soft_hard_gap"]
    charts += ["compression_1", "loss_kept_1", "runtime", "examples_1"]
    changed = [f"tasks (test): {name}, hard" for name in NAMES]
    figures = [sheet.title for sheet in sheets(compare([record for run in made.runs for record in run.records]))]
    assert made.page.tables.keys() == {*(f"chart-{name}" for name in charts), "", "Clocked", *changed, *figures}


def test_runs_are_told_with_their_steps_and_records(made: Made) -> None:
    expected = [[name, run.folder, 20, 20, len(made.records[name])] for name, run in zip(NAMES, made.runs, strict=True)]
    assert made.page.rows("") == expected


def test_curves_are_those_of_metrics(made: Made) -> None:
    lines = training_lines(20)
    for chart, metric in (("training_loss", "loss"), ("alpha", "alpha")):
        expected = [[name, line["step"], line[metric]] for name in NAMES for line in lines if metric in line]
        assert made.page.rows(f"chart-{chart}") == expected
    expected = []
    for name in NAMES:
        expected += [[name, line["step"], line["deletion_rate"]] for line in lines if "deletion_rate" in line]
        expected += [[f"{name}, target", step, TARGET] for step in (1, 20)]
    assert made.page.rows("chart-deletion") == expected
    assert made.page.rows("chart-soft_hard_gap") == [[f"{name}, tasks", 20, 0.25] for name in NAMES]


def test_deletion_rates_are_those_of_the_records(made: Made) -> None:
    groups = {
        (f"{name}, hard", language): own
        for name in NAMES
        for language, own in group_by(of_deletion(made.records[name], "hard"), "language").items()
    }
    rows = made.page.rows("chart-compression_1")
    rates = {key: summarize(own)["deletion_rate"] for key, own in groups.items()}
    assert {(row[0], row[1]): row[2] for row in rows} == pytest.approx(rates, rel=1e-12)
    errors = {key: estimate(own)["deletion_rate"].error for key, own in groups.items()}
    assert {(row[0], row[1]): row[3] for row in rows} == pytest.approx(errors, rel=1e-12)
    assert min(errors.values()) > 0


def test_losses_and_kept_lengths_are_those_of_the_records(made: Made) -> None:
    """Of the languages, weighted by their examples; their errors are independent."""
    expected, errors = {}, {}
    for name in NAMES:
        for deletion in DELETED:
            groups = group_by(of_deletion(made.records[name], deletion), "language").values()
            count = sum(map(len, groups))
            figures = ("kept_length", "loss")
            expected[f"{name}, {deletion}"] = [
                sum(len(own) * summarize(own)[figure] for own in groups) / count for figure in figures
            ]
            errors[f"{name}, {deletion}"] = [
                math.hypot(*(len(own) * estimate(own)[figure].error for own in groups)) / count for figure in figures
            ]
    rows = made.page.rows("chart-loss_kept_1")
    systems = {row[0]: row[1:3] for row in rows if row[0] != "Pareto front"}
    assert systems.keys() == expected.keys()
    for row in rows:
        if row[0] in errors:
            assert row[3:] == pytest.approx(errors[str(row[0])], rel=1e-12)
    for label, values in systems.items():
        assert values == pytest.approx(expected[label], rel=1e-12)
    front = [row for row in rows if row[0] == "Pareto front"]
    best = [
        values
        for values in systems.values()
        if not any(other[0] <= values[0] and other[1] <= values[1] and other != values for other in systems.values())
    ]
    assert [row[1:3] for row in front] == (sorted(best) if len(best) > 1 else [])


def test_times_are_those_of_the_evaluations(made: Made) -> None:
    rows = made.page.rows("chart-runtime")
    assert [[row[0], row[1], row[3]] for row in rows[:-2]] == [
        [name, f"tasks (test), step {STEP}, hard", pytest.approx(1 - 7.5 / 10)] for name in NAMES
    ]
    clocked = made.page.rows("Clocked")
    saved = [summarize(of_deletion(made.records[name], "hard"), work) for name in NAMES]
    assert clocked == [
        [name, f"tasks (test), step {STEP}", "hard", 7.5, 10.0, own["saved"], own["saved_if_exact"]]
        for name, own in zip(NAMES, saved, strict=True)
    ]
    assert rows[-2:] == [["ideal", "", 0, 0], ["ideal", "", 1, 1]]
    assert (
        [row[2] for row in rows[:-2]]
        == [row[6] for row in clocked]
        == [run.times[0].saved_if_exact for run in made.runs]
    )


def test_differences_of_examples_are_those_of_the_records(made: Made) -> None:
    expected = []
    for name in NAMES:
        before = {record.index: record for record in of_deletion(made.records[name], "none")}
        for record in of_deletion(made.records[name], "hard"):
            deleted = record.num_input_tokens - record.num_kept_tokens - record.num_dropped_tokens
            increase = (record.nll - before[record.index].nll) / record.num_target_tokens
            expected.append([f"{name}, hard", f"t {record.index}", deleted / record.num_input_tokens, increase])
    assert made.page.rows("chart-examples_1") == expected
    for name in NAMES:
        languages = {f"t {record.index}": record.language for record in made.records[name]}
        own = sorted((row[1:] for row in expected if row[0] == f"{name}, hard"), key=lambda row: row[2], reverse=True)
        worst = [[example, languages[example], share, increase, "", ""] for example, share, increase in own]
        assert made.page.rows(f"tasks (test): {name}, hard") == worst[:MOST_CHANGED]


def test_all_figures_are_the_tables_of_eval(made: Made) -> None:
    records = [record for run in made.runs for record in run.records]
    found = sheets(compare(records))
    assert found
    for sheet in found:
        assert made.page.tables[sheet.title] == [sheet.headings, *sheet.rows]


@pytest.mark.parametrize(("title", "figure"), [("loss", "loss"), ("deletion rate", "deletion_rate")])
def test_figures_by_language_and_totals_are_those_of_the_records(made: Made, title: str, figure: str) -> None:
    """Read off the page, and computed from the records once more."""
    systems = [(name, deletion) for name in NAMES for deletion in DELETED]
    headings, *rows = made.page.tables[f"tasks (test), {title}"]
    assert headings == ["language", "examples", *(f"{name}, {deletion}" for name, deletion in systems)]
    for column, (name, deletion) in enumerate(systems, start=2):
        groups = group_by(of_deletion(made.records[name], deletion), "language")
        expected = {language: summarize(own)[figure] for language, own in groups.items()}
        total = sum(len(own) for own in groups.values())
        expected[TOTAL] = sum(len(own) * expected[language] for language, own in groups.items()) / total
        shown = {str(row[0]): _number_of(str(row[column]).split(" \u00b1 ")[0]) for row in rows}
        assert shown == pytest.approx(expected, abs=0.5001e-4), "four decimals are shown"


def _number_of(text: str) -> float:
    return float(text.rstrip("%")) / (100 if text.endswith("%") else 1)


def test_nothing_runs_and_nothing_is_loaded(made: Made) -> None:
    for tag, attributes in made.page.tags:
        assert tag in ALLOWED
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "action")]
        assert (attributes.get("href") or "#").startswith("#")
    assert "://" not in made.text
    assert "color-scheme: light dark" in made.text
    assert "Content-Security-Policy" in made.text
    assert "refresh" not in made.text


def test_every_chart_is_told_in_words_and_has_its_numbers(made: Made) -> None:
    drawings = [attributes for tag, attributes in made.page.tags if tag == "svg"]
    figures = [attributes["id"] for tag, attributes in made.page.tags if tag == "figure"]
    assert len(drawings) == len(figures) == len(set(figures))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    assert all(made.page.rows(figure or "") for figure in figures)
    identifiers = [attributes["id"] for _, attributes in made.page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_charts_lie_beside_the_page(tmp_path: Path) -> None:
    """Files of an earlier report are replaced; what else lies there stays."""
    folder, _ = make_run(tmp_path / "run")
    out = tmp_path / "report"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    sections = report_sections([read_run_results(str(folder))])
    for _ in range(2):
        write_report(out, "title", sections, 30, draw=sketch)
    charts = [chart.name for section in sections for chart in section.charts]
    files = {f"{name}.{ending}" for name in charts for ending in ("svg", "png")}
    assert {path.name for path in out.iterdir()} == {*files, REPORT_PAGE, "notes.txt"}
    assert '<meta http-equiv="refresh" content="30">' in (out / REPORT_PAGE).read_text(encoding="utf-8")


def page_of_texts(texts: dict[str, tuple[bytes, set[int]]]) -> PageReader:
    of_model = TextsOfModel("m", 3, {name: deletions_of(data, deleted) for name, (data, deleted) in texts.items()})
    sections = report_sections([], [of_model])
    return PageReader(render_report("title", sections, {chart.name: "" for one in sections for chart in one.charts}))


@given(CONTENTS, CONTENTS, st.sets(st.integers(0, 24)))
def test_texts_give_back_their_bytes(one: bytes, other: bytes, deleted: set[int]) -> None:
    """Of any bytes, exactly; and no content becomes markup."""
    page = page_of_texts({"de": (one, deleted), "ar": (other, set())})
    assert page.texts == [one, other]
    assert {tag for tag, _ in page.tags} <= ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>&amp;\" ' </p></html>",
        "\u202eright \u05d0\u05d1 \u0639\u0631\u0628\u064a",
        "e\u0301 a\u200d\u202e \u0915\u094d\u0937",
        "\U0001f469\u200d\U0001f4bb \U00010348",
        "\0\x1b[31m\r\n\t\x7f\u2028",
    ],
)
def test_every_script_and_control_character_comes_back(text: str) -> None:
    data = text.encode() + b"\xff\xc3\xe2\x82\xed\xa0\x80"
    page = page_of_texts({"x": (data, {0, 3})})
    assert page.texts == [data]
    rows = {row[1]: row[2] for row in page.rows("chart-bytes_1")}
    assert rows["no UTF-8"] == 7


def test_counts_of_kinds_are_those_of_the_texts() -> None:
    page = page_of_texts({"en": (b"an ox", {1, 2, 4, 5}), "de": ("é".encode(), set())})
    rows = {(row[0], row[1]): row[2:] for row in page.rows("chart-bytes_1")}
    assert rows["en", "vowel"] == [2, 0, 0.0]
    assert rows["en", "consonant"] == [2, 2, 1.0]
    assert rows["en", "space"] == [1, 1, 1.0]
    assert rows["de", "vowel"] == [2, 0, 0.0]
    assert rows["de", "continuation byte"] == [1, 0, 0.0]
    assert ("en", "continuation byte") not in rows


@given(st.text(max_size=30))
def test_any_text_stands_in_a_cell_without_acting(text: str) -> None:
    """Markup is shown; what would act on what stands beside it is escaped."""
    shown = visible_text(text)
    page = PageReader(render_table("", ChartTable([""], [[shown]])))
    assert page.tables[""] == [[""], [shown]]
    assert {tag for tag, _ in page.tags} == {"div", "table", "thead", "tbody", "tr", "th", "td", "bdi"}
    assert all(letter.isprintable() or letter in " \u200c\u200d" or letter.isspace() for letter in shown)


def test_visible_text() -> None:
    assert visible_text("a\n\t\x1b\u202e\ud800\u200d") == "a\u21b5\\u0009\\u001B\\u202E\\uD800\u200d"


def test_names_of_runs_and_predictions_become_no_markup(tmp_path: Path) -> None:
    folder, records = make_run(tmp_path / "<b>&amp;", num_examples=4)
    (path,) = folder.glob("eval/*/records.jsonl")
    odd = [record._replace(prediction="<i>\x1b\ud800", language="<u>") for record in records]
    path.write_text(to_json_lines(odd), encoding="utf-8", errors="surrogatepass")
    run = read_run_results(str(folder))
    written = write_report(tmp_path / "out", "<s>", report_sections([run]), draw=sketch)
    page = PageReader(Path(written).read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags} <= ALLOWED
    assert page.rows("tasks (test): hard")[0][1] == "<u>"
    assert page.rows("tasks (test): hard")[0][4] == "<i>\\u001B\\uD800"
    assert page.rows("chart-training_loss")[0][0] == "<b>&amp;"


def test_full_precision_and_nothing_for_what_was_not_counted() -> None:
    cells = [0.1 + 0.2, 1e-300, 12345678, math.nan, float("inf")]
    page = PageReader(render_table("t", ChartTable([""] * 5, [cells])))
    assert page.rows("t") == [[0.1 + 0.2, 1e-300, 12345678, "-", math.inf]]


def test_many_examples_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 12
    monkeypatch.setattr("mrt5_jax.report.example_charts.MOST_EXAMPLES", most)
    folder, records = make_run(tmp_path / "run", num_examples=most * 4 + 1)
    sections = report_sections([read_run_results(str(folder))])
    (chart,) = (chart for one in sections for chart in one.charts if chart.name == "examples_1")
    (series,) = chart.series
    assert most // 2 < len(series.points) <= most
    assert series.points[-1].name == f"t {of_deletion(records, 'hard')[-1].index}"


def run_with(folder: Path, records: list[Record]) -> RunResults:
    """A run without training that has these records."""
    make_run(folder, num_examples=0)
    return dataclasses.replace(read_run_results(str(folder)), metrics=[], records=records)


def test_of_many_tasks_the_first_are_shown_and_the_others_are_named(tmp_path: Path) -> None:
    one = random_evaluation(4)
    records = [record._replace(mixture=f"task{number}") for number in range(5) for record in one]
    sections = report_sections([run_with(tmp_path / "run", records)], example_tasks=2)
    charts = [chart.name for section in sections for chart in section.charts]
    assert [name for name in charts if name.startswith("examples_")] == ["examples_1", "examples_2"]
    (examples,) = (section for section in sections if section.heading == "Examples")
    assert list(examples.tables) == ["task0 (test): hard", "task1 (test): hard"]
    assert sections[0].lines == [
        "Examples are shown of 2 of 5 tasks; left out (--example_tasks): task2 (test); task3 (test); task4 (test)"
    ]


def test_many_systems_share_a_chart_and_the_rows_of_their_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrt5_jax.report.example_charts.MOST_EXAMPLES_TOGETHER", 12)
    monkeypatch.setattr("mrt5_jax.report.example_charts.MOST_CHANGED_TOGETHER", 6)
    none, hard = (of_deletion(random_evaluation(20), deletion) for deletion in DELETED)
    swept = [record._replace(threshold=threshold) for threshold in (-1.0, -2.0, -3.0) for record in hard]
    sections = report_sections([run_with(tmp_path / "run", [*none, *swept])])
    (examples,) = (section for section in sections if section.heading == "Examples")
    (chart,) = examples.charts
    assert [len(series.points) for series in chart.series] == [4, 4, 4]
    assert "Of more than 4 examples of a system" in chart.note
    assert [len(table.rows) for table in examples.tables.values()] == [2, 2, 2]


def test_of_long_outputs_the_beginning_is_shown_and_the_rest_is_counted() -> None:
    before, after = random_evaluation(1)
    change = ExampleChange(before, after._replace(prediction="\u00e9" * (MOST_LETTERS + 1234)))
    (table,) = changed_tables(TaskExamples(1, "t", {"hard": [change]})).values()
    assert table.rows[0][4:] == ["", "\u00e9" * MOST_LETTERS + "\u2026 (1,234 more characters)"]


def test_a_section_without_anything_is_left_out() -> None:
    assert [section.heading for section in report_sections([])] == ["Runs"]
    assert ReportSection("x", ["a line"]).is_empty
