"""Converters: hand-written rows in each data set's own layout become the expected lines."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from deltamem.train.data import BadDataError
from deltamem.train.data.converters import KINDS, Conversion, Example, Skipped, Style, convert
from deltamem.train.data.converters.datafiles import read_rows
from deltamem.train.data.converters.documents import split_paragraphs
from deltamem.train.data.lines import RawLine, parse_messages


def answer(**fields: Any) -> dict[str, Any]:
    empty = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": ""}
    return {"answer": {**empty, **fields}, "annotation_id": "x"}


ANSWERS = [
    (answer(free_form_answer="A memory."), "A memory."),
    (answer(extractive_spans=["small", "fast"]), "small, fast"),
    (answer(yes_no=True), "Yes"),
    (answer(yes_no=False), "No"),
    (answer(unanswerable=True), "Unanswerable"),
]
PAPER = {
    "title": "On memory",
    "abstract": "We write.",
    "full_text": [
        {"section_name": "Introduction", "paragraphs": ["One.", "Two."]},
        {"section_name": None, "paragraphs": ["Three."]},
    ],
    "qas": [
        {"question": f"Question {n}?", "question_id": str(n), "answers": [given, answer(yes_no=True)]}
        for n, (given, _) in enumerate(ANSWERS)
    ],
}
HOTPOT = {
    "_id": "5a8b",
    "question": "Same nationality?",
    "answer": "yes",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": [["Ed Wood", 0]],
    "context": [["Ed Wood", ["An American.", " He filmed."]], ["Scott", ["Also one."]]],
}
DIALOGUE = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ana",
        "speaker_b": "Ben",
        "session_10_date_time": "2 May",
        "session_10": [{"speaker": "Ben", "dia_id": "D10:1", "text": "Rex!", "blip_caption": "a photo of a dog"}],
        "session_2_date_time": "1 May",
        "session_2": [
            {"speaker": "Ana", "dia_id": "D2:1", "text": "Hi!"},
            {"speaker": "Ben", "dia_id": "D2:2", "text": "Hey."},
        ],
        "session_11_date_time": "3 May",
    },
    "qa": [
        {"question": "When?", "answer": 2022, "evidence": ["D2:1"], "category": 2},
        {"question": "Which cat?", "adversarial_answer": "Tom", "evidence": [], "category": 5},
    ],
}
ARTICLE = {
    "title": "New_York",
    "paragraphs": [
        {
            "context": "It is a city.",
            "qas": [
                {"id": "a", "question": "What is it?", "answers": [{"text": "a city", "answer_start": 6}]},
                {"id": "b", "question": "When?", "answers": [], "is_impossible": True},
                {"id": "c", "question": "Hidden?"},
            ],
        }
    ],
}


STAR = {
    "DialogueID": 7,
    "Events": [
        {"Agent": "UserGuide", "Action": "instruct", "Text": "You are Ben."},
        {"Agent": "User", "Action": "utter", "Text": "Hi, I am ben Wood. Dr. Morgan on Friday, please."},
        {"Agent": "Wizard", "Action": "request_suggestions", "Text": "ok ben"},
        {
            "Agent": "Wizard",
            "Action": "query",
            "Constraints": [
                {"Name": '"Dr. Morgan"'},
                {"PatientName": '"Ben Wood"'},
                {"Day": '"Friday"'},
                {"Time": "api.is_equal_to(3)"},
                {"City": '"Boston"'},
            ],
        },
        {"Agent": "Wizard", "Action": "pick_suggestion", "Text": "Ben, DR. MORGAN is free. Benefits apply."},
        {"Agent": "User", "Action": "complete"},
    ],
}
PERSONA = {
    "user 1 personas": "My favorite food is sushi.\nI live in Ohio.\nI like to paint.\nPurple is nice.",
    "user 2 personas": "I drive a truck for my uncle.\nI am a nurse.",
    "Best Generated Conversation": "User 1: Hi! I am from Ohio, I live there.\n\nUser 2: Cool, I drive my uncle's "
    "truck.\n* User 1: Nice!\nI could eat sushi all day, my favorite food.\nUser 2: Ha.",
}
TALK = {
    "ID": "3",
    "section_header": "allergy",
    "section_text": "Penicillin.\n",
    "dialogue": "Doctor: Any allergies? \r\nPatient: Yes.\nPenicillin.\n Guest_family: True.",
}
STORY = {
    "story": "snow-man",
    "sections": [{"section": "1", "text": "It was cold."}, {"section": "2", "text": "The sun set."}],
    "questions": [
        {"question": "How was it?", "answers": ["cold", "icy"], "explicit": True},
        {"question": "Why?", "answers": ["winter"], "explicit": False},
    ],
}


def lines(kind: str, row: dict[str, Any], **style: Any) -> list[Example | Skipped]:
    return list(KINDS[kind].examples(row, Style(**style)))


def contents(item: Example | Skipped) -> list[str]:
    assert isinstance(item, Example)
    assert [message["role"] for message in item.messages] == ["user"] * (len(item.messages) - 1) + ["assistant"]
    return [message["content"] for message in item.messages]


def test_qasper_has_a_line_a_question_with_the_first_answer() -> None:
    found = lines("qasper", {"id": "1909.1", **PAPER})
    assert [contents(item)[1:] for item in found] == [[f"Question {n}?", text] for n, (_, text) in enumerate(ANSWERS)]
    paper = "On memory\n\nWe write.\n\nIntroduction\nOne.\nTwo.\n\nThree."
    assert {contents(item)[0] for item in found} == {paper}
    assert isinstance(found[0], Example)
    assert found[0].name == "1909.1/0"


def test_qasper_in_parts_has_a_turn_a_section() -> None:
    assert contents(lines("qasper", PAPER, parts=True)[0])[:3] == [
        "On memory\n\nWe write.",
        "Introduction\nOne.\nTwo.",
        "Three.",
    ]


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_qasper_and_hotpotqa_read_the_hubs_columns_too() -> None:
    qas = [{**asked, "answers": columns(asked["answers"])} for asked in PAPER["qas"]]
    on_hub = {**PAPER, "full_text": columns(PAPER["full_text"]), "qas": columns(qas)}
    assert lines("qasper", on_hub) == lines("qasper", PAPER)
    context = {"title": ["Ed Wood", "Scott"], "sentences": [["An American.", " He filmed."], ["Also one."]]}
    assert lines("hotpotqa", {**HOTPOT, "context": context}) == lines("hotpotqa", HOTPOT)


def test_hotpotqa_numbers_its_passages() -> None:
    (item,) = lines("hotpotqa", HOTPOT, ask="{question} Briefly.")
    assert contents(item) == [
        "Passage 1 - Ed Wood:\nAn American. He filmed.\n\nPassage 2 - Scott:\nAlso one.",
        "Same nationality? Briefly.",
        "yes",
    ]
    assert lines("hotpotqa", {**HOTPOT, "answer": None}) == [Skipped("no answer")]


def test_dialogues_have_their_sessions_in_order_and_skip_what_has_no_answer() -> None:
    first, second = lines("locomo", DIALOGUE, parts=True)
    assert contents(first) == [
        'DATE: 1 May\nCONVERSATION:\nAna said, "Hi!"\nBen said, "Hey."',
        'DATE: 2 May\nCONVERSATION:\nBen said, "Rex!" and shared a photo of a dog.',
        "When?",
        "2022",
    ]
    assert second == Skipped("no answer")


def test_squad_has_a_line_a_question_as_an_article_or_flat() -> None:
    answered, impossible, hidden = lines("squad", ARTICLE)
    assert contents(answered) == ["New York\n\nIt is a city.", "What is it?", "a city"]
    assert contents(impossible)[-1] == "Unanswerable"
    assert hidden == Skipped("no answer")
    flat = {"id": "a", "title": "New_York", "context": "It is a city.", "question": "What is it?"}
    assert lines("squad", {**flat, "answers": {"text": ["a city"], "answer_start": [6]}}) == [answered]


def test_a_paragraph_with_its_questions_is_squad_too() -> None:
    row = {"title": "New_York", "context": "It is a city.", "questions": [{"question": "What?", "answers": ["a city"]}]}
    (item,) = lines("squad", {"id": "4", **row})
    assert contents(item) == ["New York\n\nIt is a city.", "What?", "a city"]
    assert isinstance(item, Example)
    assert item.name == "4/1"


def chat(item: Example | Skipped) -> list[tuple[str, str]]:
    assert isinstance(item, Example)
    return [(message["role"], message["content"]) for message in item.messages]


def test_star_asks_for_what_was_said_with_values_drawn_anew() -> None:
    pytest.importorskip("faker")
    found = lines("star", STAR)
    asked = {chat(item)[-2][1]: chat(item)[-1][1] for item in found}
    assert list(asked) == ["What is my name?", "Which doctor did I name?", "Which day did I ask for?"]
    name = asked["What is my name?"].removeprefix("Your name is ").rstrip(".")
    doctor = asked["Which doctor did I name?"].removeprefix("You named ").rstrip(".")
    day = asked["Which day did I ask for?"].removeprefix("You asked for ").rstrip(".")
    assert doctor.startswith("Dr. ")
    assert {"Ben", "Wood", "Morgan", "Friday"}.isdisjoint([*name.split(), *doctor.split(), day])
    assert chat(found[0])[:-2] == [
        ("user", f"Hi, I am {name}. {doctor} on {day}, please."),
        ("assistant", f"{name.split()[0]}, {doctor} is free. Benefits apply."),
    ]
    assert lines("star", STAR) == found
    assert lines("star", STAR, seed=1) != found
    row = {"id": 7, "slots": {"PatientName": "Ben Wood"}, "turns": [["user", "Ben Wood"], ["wizard", "Hi, Ben."]]}
    (short,) = lines("star", row)
    renewed = chat(short)[0][1]
    assert chat(short)[1:] == [
        ("assistant", f"Hi, {renewed.split()[0]}."),
        ("user", "What is my name?"),
        ("assistant", f"Your name is {renewed}."),
    ]
    hotel = {
        "slots": {"Name": "Hyatt Hotel"},
        "turns": [["user", "The Hyatt Hotel."], ["wizard", "A hotel, the Hyatt."]],
    }
    (item,) = lines("star", hotel)
    place = chat(item)[-1][1].removeprefix("You named the ").rstrip(".")
    assert place.endswith(" Hotel")
    assert [text for _, text in chat(item)[:2]] == [f"The {place}.", f"A hotel, the {place.split()[0]}."]
    corner = {"slots": {"ArrivalLocation": "5th and Main"}, "turns": [["user", "To 5th and Main on May 5th and 6th."]]}
    (item,) = lines("star", corner)
    assert chat(item)[0][1].endswith(" on May 5th and 6th.")
    nothing = {**row, "slots": {"PatientName": "Ann"}}
    assert lines("star", nothing) == [Skipped("no value that the customer said and that can be drawn anew")]


def test_star_takes_no_value_that_is_held_out() -> None:
    pytest.importorskip("faker")
    from deltamem.train.data.told.values import held_out

    row = {"slots": {"UserName": "Ben"}, "turns": [["user", "I am Ben."]]}
    names = {chat(lines("star", {**row, "id": n})[0])[0][1][5:-1] for n in range(100)}
    assert len(names) > 90
    assert not [name for name in names if held_out(name)]


def test_persona_chats_ask_each_for_what_they_said() -> None:
    found = lines("synthetic-persona-chat", {"id": "1", **PERSONA})
    asked = [item for item in found if isinstance(item, Example)]
    assert [(item.name, chat(item)[-2:]) for item in asked] == [
        ("1/1/1", [("user", "What is my favorite food?"), ("assistant", "Your favorite food is sushi.")]),
        ("1/1/2", [("user", "Where do I live?"), ("assistant", "You live in Ohio.")]),
        ("1/2/1", [("user", "What do I drive?"), ("assistant", "You drive a truck for your uncle.")]),
    ]
    assert chat(asked[0])[:-2] == [
        ("user", "Hi! I am from Ohio, I live there."),
        ("assistant", "Cool, I drive my uncle's truck."),
        ("user", "Nice!\nI could eat sushi all day, my favorite food."),
        ("assistant", "Ha."),
    ]
    assert {role for role, _ in chat(asked[2])[:1]} == {"assistant"}
    assert [item.reason for item in found if isinstance(item, Skipped)] == [
        "a sentence that was not said in the chat",
        "a sentence that no question asks for",
        "a sentence that was not said in the chat",
    ]
    turns = [["User 1", "I live in Ohio."], ["User 2", "Ah."]]
    (item,) = lines("synthetic-persona-chat", {"personas": [["I live in Ohio."], []], "turns": turns})
    assert chat(item)[-1] == ("assistant", "You live in Ohio.")


def test_mts_dialog_asks_for_the_section_of_the_note() -> None:
    (item,) = lines("mts-dialog", TALK)
    talk = "Doctor: Any allergies?\nPatient: Yes.\nPenicillin.\nGuest_family: True."
    assert contents(item) == [talk, "Which allergies does the patient have?", "Penicillin."]
    (in_parts,) = lines("mts-dialog", {"section": "CC", "note": "Pain.", "dialogue": TALK["dialogue"]}, parts=True)
    assert contents(in_parts) == [
        "Doctor: Any allergies?",
        "Patient: Yes.\nPenicillin.",
        "Guest_family: True.",
        "What is the patient's chief complaint?",
        "Pain.",
    ]


def test_fairytales_have_a_line_a_question() -> None:
    first, second = lines("fairytaleqa", STORY)
    assert contents(first) == ["It was cold.\n\nThe sun set.", "How was it?", "cold"]
    assert contents(second)[-1] == "winter"
    assert lines("fairytaleqa", STORY, explicit=True) == [
        first,
        Skipped("an answer that does not stand in the text"),
    ]


def write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_fairytales_are_read_from_the_authors_folders(tmp_path: Path) -> None:
    questions = tmp_path / "questions" / "train"
    stories = tmp_path / "section-stories" / "train"
    columns = {f"answer{number}": "" for number in range(1, 7)}
    write_csv(stories / "snow-man-story.csv", STORY["sections"])
    write_csv(
        questions / "snow-man-questions.csv",
        [
            {"question": "How was it?", "ex-or-im1": "explicit", **columns, "answer1": "cold", "answer4": "icy"},
            {"question": "Why?", "ex-or-im1": "implicit", **columns, "answer1": "winter"},
        ],
    )
    assert convert("fairytaleqa", questions, tmp_path / "out.jsonl").lines == 2
    (tmp_path / "rows.json").write_text(json.dumps(STORY), encoding="utf-8")
    convert("fairytaleqa", tmp_path / "rows.json", tmp_path / "same.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "same.jsonl").read_bytes()
    (stories / "snow-man-story.csv").unlink()
    with pytest.raises(BadDataError, match=r"its story .*section-stories/train/snow-man-story.csv is not there"):
        convert("fairytaleqa", questions, tmp_path / "out.jsonl")


@pytest.mark.parametrize(("kind", "row", "count"), [("mts-dialog", TALK, 1), ("synthetic-persona-chat", PERSONA, 3)])
def test_tables_are_read_row_by_row(kind: str, row: dict[str, Any], count: int, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [row, row])
    done = convert(kind, tmp_path / "rows.csv", tmp_path / "out.jsonl")
    assert (done.rows, done.lines) == (2, 2 * count)
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert len(set(ids)) == (1 if "ID" in row else 2 * count)


def test_documents_remember_paragraphs_and_predict_the_next() -> None:
    paragraphs = [f"Paragraph {n} " + "goes on and on. " * 6 for n in range(7)]
    found = lines("documents", {"id": "d", "text": "\n\n \n".join(paragraphs)}, paragraphs=3, parts=True, ask="More.")
    told = [contents(item) for item in found]
    assert [[text.split(" goes")[0] for text in line] for line in told] == [
        ["Paragraph 0", "Paragraph 1", "More.", "Paragraph 2"],
        ["Paragraph 3", "Paragraph 4", "More.", "Paragraph 5"],
    ]
    assert lines("documents", {"text": paragraphs[0]}) == [Skipped("fewer than two paragraphs")]


def test_headings_belong_to_what_follows_and_no_text_is_lost() -> None:
    body = "Long enough to stand alone. " * 4
    text = f"# Title\r\n\r\n{body}\n\n## Part\n\n{body}\n\nEnd."
    found = split_paragraphs(text)
    assert [paragraph.split("\n")[0] for paragraph in found] == ["# Title", "## Part"]
    assert " ".join(found).split() == text.split()
    assert split_paragraphs("short") == ["short"]
    assert split_paragraphs("") == []


FILES = {
    "qasper.json": ("qasper", {"1909.1": PAPER}, 5),
    "hotpot.json": ("hotpotqa", [HOTPOT, HOTPOT], 2),
    "locomo.json": ("locomo", [DIALOGUE], 1),
    "squad.json": ("squad", {"version": "v2.0", "data": [ARTICLE]}, 2),
}


@pytest.mark.parametrize("name", FILES)
def test_official_files_become_lines_that_training_reads(name: str, tmp_path: Path) -> None:
    kind, data, count = FILES[name]
    (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    done = convert(kind, tmp_path / name, tmp_path / "out.jsonl")
    assert done.lines == count
    written = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [len(parse_messages(RawLine("out", n, data))) for n, data in enumerate(written)] == [3] * count


def test_the_shortest_lines_are_kept_in_their_order(tmp_path: Path) -> None:
    texts = [f"{'long ' * (9 - n)}{n}" for n in range(8)] + ["1 8"]
    rows = [{**HOTPOT, "_id": str(n), "question": text} for n, text in enumerate(texts)]
    source = tmp_path / "rows.jsonl.gz"
    source.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))

    def ids(**options: Any) -> list[str]:
        done = convert("hotpotqa", source, tmp_path / "out.jsonl.gz", shortest=3, **options)
        assert done == Conversion(rows=9, lines=3, skipped={}, longer=6, longest=done.longest)
        return [json.loads(line)["id"] for line in gzip.open(tmp_path / "out.jsonl.gz")]

    assert ids() == ["6", "7", "8"]
    read = map(json.loads, gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).splitlines())
    longest = max(sum(len(message["content"]) for message in line["messages"]) for line in read)
    assert convert("hotpotqa", source, tmp_path / "out.jsonl.gz", shortest=3).longest == longest
    assert ids(measure=lambda item: -item.characters) == ["0", "1", "2"]


def test_text_files_of_a_folder_are_documents(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("\n\n".join(["A paragraph of some length. " * 4] * 3), encoding="utf-8")
    (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG")
    assert convert("documents", tmp_path / "in", tmp_path / "out.jsonl").lines == 1


@pytest.mark.parametrize(
    ("kind", "name", "data", "message"),
    [
        (
            "qasper",
            "a.jsonl",
            b'{"title": "x"}',
            "a.jsonl:1 does not have the layout of qasper: expected a list of rows",
        ),
        (
            "hotpotqa",
            "a.json",
            b'[{"question": "x", "answer": "y"}]',
            "row 1 does not have the layout of hotpotqa: 'context'",
        ),
        ("locomo", "a.json", b"[3]", "row 1 does not have the layout of locomo"),
        ("squad", "a.json", b'{"data": [{}]}', "'context' is missing or not a str"),
        ("squad", "a.json", b'{\n"data": }', r"a.json:2: not JSON: Expecting value at column 9"),
        (
            "squad",
            "a.json",
            b'{"data": ' + b"[" * 20_000,
            r"a.json: not JSON that can be read: it is nested too deeply",
        ),
        (
            "squad",
            "a.json",
            b'{"data": 1' + b"0" * 5000 + b"}",
            r"a.json: not JSON that can be read: Exceeds the limit",
        ),
        ("documents", "a.txt", b"a\n\xff", "a.txt:2: not UTF-8: byte 0xff"),
        ("mts-dialog", "a.csv", b"section_header,section_text,dialogue\nX,y,z\n", "there is no section 'X'"),
        ("mts-dialog", "a.csv", b"section\nX,y\n", "a.csv, row 1: it has more fields than the header"),
        ("synthetic-persona-chat", "a.csv", b'turns\n"a', "a.csv:1: not CSV: unexpected end of data"),
        (
            "star",
            "a.json",
            b'{"turns": [["robot", "Hi"]], "slots": {}}',
            "a turn is of robot, not of user or wizard",
        ),
        ("documents", "a.txt", b"short", "gives no training line"),
        ("documents", "a.pdf", b"", "not a .jsonl, .json, .csv, .txt or .md file"),
        ("documents", "a.json.gz", b"x", "cannot be read"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(
    kind: str, name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "out.jsonl").write_text("before", encoding="utf-8")
    with pytest.raises(BadDataError, match=message):
        convert(kind, tmp_path / name, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "before"


@pytest.mark.parametrize(
    ("name", "data", "place"),
    [
        ("rows.jsonl", '{"a": "b"}\n\n{"a": ["told \\ud83d"]}\n', ":3: half of a surrogate pair"),
        ("rows.json", '[{"a": "\\ud83d\\ude00"}, {"a": {"b\\udc00": 1}}]', ", row 2: half of a surrogate pair"),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place(name: str, data: str, place: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(data, "utf-8")
    with pytest.raises(BadDataError, match=f"{name}{place}, which is not a character"):
        list(read_rows(tmp_path / name))


def test_unknown_kinds_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no converter 'quac'; there are qasper"):
        convert("quac", tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match=r"must end in .jsonl"):
        convert("squad", tmp_path, tmp_path / "out.json")
    with pytest.raises(ValueError, match="paragraphs must be 2 or more"):
        Style(paragraphs=1)
    with pytest.raises(BadDataError, match="no such file or folder"):
        convert("squad", tmp_path / "none.json", tmp_path / "out.jsonl")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}


def test_sharegpt_conversations_stay_conversations() -> None:
    turns = [
        ("human", "I moved to Oslo."),
        ("gpt", "Nice."),
        ("human", "Where do I live?"),
        ("gpt", "In Oslo."),
        ("human", "Bye."),
    ]
    row = {"id": "a", "system": "Be kind.", "conversations": [{"from": who, "value": said} for who, said in turns]}
    (item,) = lines("sharegpt", row)
    assert item.name == "a"
    assert list(item.messages) == [
        {"role": "system", "content": "Be kind."},
        user("I moved to Oslo."),
        assistant("Nice."),
        user("Where do I live?"),
        assistant("In Oslo."),
    ]
    with pytest.raises(ValueError, match="the speaker 'alien' is unknown"):
        lines("sharegpt", {"conversations": [{"from": "alien", "value": "?"}]})
    short = list(KINDS["sharegpt"].examples({"conversations": row["conversations"][:2]}, Style()))
    assert short == [Skipped("one question, with nothing before it to remember")]


@pytest.mark.parametrize("form", ["fine-tuning", "flat", "log", "batch"])
def test_openai_logs_with_their_tool_calls(form: str) -> None:
    messages = [
        user("I am in Oslo."),
        CALL,
        {"role": "tool", "content": "4 °C"},
        assistant("Cold."),
        user("Where am I?"),
    ]
    last = assistant("In Oslo.")
    choices = [{"index": 0, "message": last}]
    row: dict[str, Any] = {
        "fine-tuning": {"messages": [*messages, last]},
        "flat": {"messages": messages, "choices": choices},
        "log": {"request": {"model": "m", "messages": messages}, "response": {"id": "r", "choices": choices}},
        "batch": {"custom_id": "b", "body": {"messages": messages}, "response": {"body": {"choices": choices}}},
    }[form]
    (item,) = lines("openai", row)
    assert item.messages == (messages[0], {"role": "assistant", "content": ""}, *messages[2:], last)
    assert item.name == {"log": "r", "batch": "b"}.get(form, "")


def test_a_tool_call_without_text_is_no_bad_line_and_no_target() -> None:
    whole = [user("a"), CALL, {"role": "tool", "content": "b"}, assistant("c"), user("d"), assistant("e")]
    read = parse_messages(RawLine("f", 1, json.dumps({"messages": whole}).encode()))
    assert read[1] == {"role": "assistant", "content": ""}
    with pytest.raises(ValueError, match="no assistant message with a text"):
        parse_messages(RawLine("f", 1, json.dumps({"messages": whole[:2]}).encode()))
    with pytest.raises(ValueError, match="message 1: content must be a text"):
        parse_messages(RawLine("f", 1, json.dumps({"messages": [{"role": "assistant", "content": None}]}).encode()))


@pytest.mark.parametrize(
    ("kind", "ask", "said"),
    [
        ("squad", "{q}", r"ask \(--ask\) has \{q\}; the only placeholder is \{question\}"),
        ("squad", "Answer.", "every line would ask the same"),
        ("documents", "{question}", "documents has no questions"),
        ("openai", "{question}", "leave out ask"),
    ],
)
def test_an_ask_that_does_not_fit_is_refused(kind: str, ask: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        convert(kind, tmp_path / "none.json", tmp_path / "out.jsonl", ask=ask)
    assert not (tmp_path / "out.jsonl").exists()
