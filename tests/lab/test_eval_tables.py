"""Tables as files: the same numbers for programs and for papers."""

import csv
from pathlib import Path

import pytest
from test_eval_records import write
from test_eval_report import records

from deltamem.cli.main import main
from deltamem_lab.records import shard_file
from deltamem_lab.report.blocks import Heading, Table
from deltamem_lab.report.tables import to_csv, to_latex, write_tables

TABLE = Table(
    ["method", "exact, %", "against none"],
    [
        ["multi_a", "86.9 [85.1, 88.9]", "+73.3 [+71.9, +74.7] better"],
        ["none & more", "13.6 [12.6, 14.8]", "–"],
    ],
)


def test_csv_has_a_column_for_each_number() -> None:
    head, *rows = csv.reader(to_csv(TABLE).splitlines())
    assert head == [
        *("method", "exact, %", "exact, %, low", "exact, %, high"),
        *("against none", "against none, low", "against none, high", "against none, verdict"),
    ]
    assert rows == [
        ["multi_a", "86.9", "85.1", "88.9", "+73.3", "+71.9", "+74.7", "better"],
        ["none & more", "13.6", "12.6", "14.8", "", "", "", ""],
    ]


def test_latex_is_escaped_and_aligned() -> None:
    lines = to_latex(TABLE).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert r"multi\_a & 86.9 [85.1, 88.9] & +73.3 [+71.9, +74.7] better \\" in lines
    assert r"none \& more & 13.6 [12.6, 14.8] & -- \\" in lines
    assert lines[2] == r"method & exact, \% & against none \\"
    assert to_latex(Table(["a"], [["\\x^~{δ}|"]])).splitlines()[4] == (
        r"\textbackslash{}x\textasciicircum{}\textasciitilde{}\{$\delta$\}\textbar{} \\"
    )


def test_tables_are_named_by_their_headings(tmp_path: Path) -> None:
    blocks = [Heading("Evaluation", 1), Heading("world, protocol world"), TABLE, TABLE, Heading("Costs", 3), TABLE]
    names = {path.name for path in write_tables(blocks, tmp_path)}
    stems = ("world-protocol-world", "world-protocol-world-2", "world-protocol-world-costs")
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("csv", "tex", "md")}


def test_the_command_writes_them_beside_the_report(tmp_path: Path) -> None:
    write(shard_file(tmp_path, 0, 1), *records())
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path), "--tables"])
    assert not left.value.code
    (table, *_) = sorted((tmp_path / "tables").glob("*protocol-world.csv"))
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert {"multi", "none"} <= {row["method"] for row in rows}
    assert (tmp_path / "report.html").is_file()
