"""The judge behind a chat endpoint: both orders, ties, patience with its end, and a key that stays out of files."""

import json
import threading
import time

import pytest
import torch

from dpo.data.judges.base import Given, JudgeError, Question
from dpo.data.judges.endpoint import Endpoint, as_text, decide, fill, read_verdict
from dpo.errors import UsageError
from tests.chat_server import Server, longer_wins, said

COMMON = {
    "samples": 2,
    "temperature": 1.0,
    "max_new_tokens": 8,
    "prompts": None,
    "seed": 0,
    "batch_size": 8,
    "run": None,
    "from_start": False,
    "append": True,
    "model": "toy",
    "key_variable": None,
    "rubric": None,
    "reply_tokens": 32,
    "workers": 1,
    "retries": 2,
    "backoff": 0.0,
    "timeout": 5.0,
    "max_no_verdict": 0.2,
}
KEY = "sk-a-secret-0123456789"


def questions(count: int = 1) -> list[Question]:
    """Answers short and longer, in this order."""
    given = (Given(0, 0, "short", True), Given(1, 1, "longer", True))
    return [Question(f"q{i}", f"prompt {i}", (), given) for i in range(count)]


def ask(url, count=1, kept=None, **changes):
    """Verdicts of the judge at this address; `kept` collects replies by key."""
    kept = {} if kept is None else kept

    def recall(key, request):
        if key not in kept:
            kept[key] = request()
        return kept[key]

    judge = Endpoint(**COMMON | {"url": url} | changes)
    return judge.open(torch.device("cpu"))(questions(count), recall)


def test_both_orders_are_asked_and_agree() -> None:
    """The longer answer wins behind either letter."""
    with Server(longer_wins) as server:
        (verdict,) = ask(server.url)
    assert server.comparisons() == [("short", "longer"), ("longer", "short")]
    assert (verdict.outcome, verdict.chosen, verdict.rejected) == ("pair", 1, 0)
    assert verdict.detail == {"first_order": "B", "second_order": "A"}


def test_a_request_is_what_openai_compatible_servers_read() -> None:
    """Path, model, one message, temperature 0, a bound on the reply; no Authorization without a key."""
    with Server(longer_wins) as server:
        ask(server.url + "/")
    body = server.asked[0]
    assert set(body) == {"model", "messages", "temperature", "max_tokens"} and body["model"] == "toy"
    assert body["temperature"] == 0 and body["max_tokens"] == 32
    assert "prompt 0" in body["messages"][0]["content"] and "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("first", "second", "outcome", "chosen"),
    [
        ("A", "B", "pair", 0),
        ("B", "A", "pair", 1),
        ("A", "A", "disagreement", None),
        ("B", "B", "disagreement", None),
        ("tie", "A", "disagreement", None),
        ("tie", "tie", "tie", None),
        ("nonsense", "B", "no_verdict", None),
        ("A", "", "no_verdict", None),
    ],
)
def test_only_what_both_orders_say_counts(first, second, outcome, chosen) -> None:
    """A judge that always says A prefers a position, and no answer."""
    verdict = decide(questions()[0], f"Verdict: {first}", f"Verdict: {second}")
    assert (verdict.outcome, verdict.chosen) == (outcome, chosen)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Because.\nVerdict: A", "A"),
        ("verdict: b", "B"),
        ("**Verdict:** B.\n", "B"),
        ("Verdict: A\nOn second thoughts:\nVerdict: B", "B"),
        ("VERDICT: TIE", "tie"),
        (" [[A]] ", "A"),
        ("tie", "tie"),
        ("Answer A is good", None),
        ("Verdict: A or B", None),
        ("Verdict: neither", None),
        ("Verdict:\nA nice try", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_from_its_own_line(reply, verdict) -> None:
    """The last one counts; anything else is no verdict."""
    assert read_verdict(reply) == verdict


def test_what_is_filled_into_a_rubric_is_not_filled_again() -> None:
    """An answer may hold braces, even the name of a place."""
    assert fill("{prompt}|{first}|{second}|{x}", prompt="{first}", first="{second}\\1", second="{}") == (
        "{first}|{second}\\1|{}|{x}"
    )


def test_chat_prompts_are_read_with_their_roles() -> None:
    """One line for each message."""
    assert as_text([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]) == "system: s\nuser: u"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(status) -> None:
    """Two failures, then an answer: three requests for the first order, one for the second."""
    with Server(lambda n, body: longer_wins(n, body) if n > 2 else (status, b"busy", {})) as server:
        (verdict,) = ask(server.url)
    assert verdict.outcome == "pair" and len(server.asked) == 4


def test_patience_ends_with_one_line() -> None:
    """Retries 2: three requests, then the address, the status and what happens next."""
    with Server(lambda n, body: (500, b"out of\norder", {})) as server, pytest.raises(JudgeError) as caught:
        ask(server.url)
    said = str(caught.value)
    assert len(server.asked) == 3 and "\n" not in said
    assert "no reply after 3 attempts" in said and "HTTP 500" in said and "out of order" in said


def test_a_refusal_is_not_repeated() -> None:
    """401 stays 401."""
    with (
        Server(lambda n, body: (401, b"bad key", {})) as server,
        pytest.raises(JudgeError, match=r"refused \(HTTP 401"),
    ):
        ask(server.url)
    assert len(server.asked) == 1


def test_a_slow_server_is_asked_again_and_given_up() -> None:
    """A reply later than the time-out is none."""
    with Server(longer_wins) as server, pytest.raises(JudgeError, match=r"no reply after 2 attempts \(last: timed out"):
        server.hold.clear()
        ask(server.url, timeout=0.2, retries=1)
    assert len(server.asked) == 2


def test_no_server_at_all_is_given_up() -> None:
    """The connection is refused."""
    with Server(longer_wins) as server:
        pass
    with pytest.raises(JudgeError, match="no reply after 1 attempt "):
        ask(server.url, retries=0)


def test_waiting_doubles_and_a_servers_own_word_comes_first() -> None:
    """Backoff 0.1 s, then 0.2 s; Retry-After 0 makes it none."""

    def time_of(headers):
        begin = time.monotonic()
        with Server(lambda n, body: (503, b"", headers)) as server, pytest.raises(JudgeError):
            ask(server.url, backoff=0.1)
        return time.monotonic() - begin

    assert time_of({}) > 0.3 > time_of({"Retry-After": "0"})


def test_replies_before_a_failure_are_kept_and_not_asked_for_again() -> None:
    """Three replies, then trouble: the second time begins with the fourth."""
    kept: dict[str, str] = {}
    failing = Server(lambda n, body: longer_wins(n, body) if n <= 3 else (500, b"", {}))
    with failing, pytest.raises(JudgeError):
        ask(failing.url, 3, kept, retries=0)
    assert list(kept) == ["q0/0-1", "q0/1-0", "q1/0-1"]
    with Server(longer_wins) as server:
        assert [verdict.outcome for verdict in ask(server.url, 3, kept)] == ["pair"] * 3
    assert len(server.asked) == 3


def test_several_workers_ask_at_once_and_keep_the_order() -> None:
    """Four requests are under way before one is answered; verdicts are those of one worker."""
    with Server(longer_wins) as server:
        server.hold.clear()
        threading.Timer(0.5, server.hold.set).start()
        verdicts = ask(server.url, 8, workers=4)
    assert [verdict.id for verdict in verdicts] == [f"q{i}" for i in range(8)]
    assert len({body["messages"][0]["content"] for body in server.asked[:4]}) == 4 and len(server.asked) == 16


def test_after_a_failure_the_other_workers_stop_and_all_say_why() -> None:
    """Not every question costs its own retries, and the error is the server's."""
    with (
        Server(lambda n, body: (400, b"no such model", {})) as server,
        pytest.raises(JudgeError, match="no such model"),
    ):
        ask(server.url, 50, workers=4)
    assert len(server.asked) <= 8


@pytest.mark.parametrize("content", [b"<html>", b"[]", said(None), b'{"choices": []}', b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_completion_is_no_verdict(content) -> None:
    """It is counted, not raised."""
    with Server(lambda n, body: (200, content, {})) as server:
        assert ask(server.url)[0].outcome == "no_verdict"


def test_half_a_surrogate_pair_in_a_reply_can_be_written() -> None:
    """JSON can spell it, UTF-8 cannot."""
    kept: dict[str, str] = {}
    with Server(lambda n, body: (200, said("\ud800\nVerdict: A"), {})) as server:
        ask(server.url, kept=kept)
    assert list(kept.values()) == ["?\nVerdict: A"] * 2


def test_the_key_is_in_the_header_and_nowhere_else(monkeypatch) -> None:
    """Not in replies or errors, even where the server repeats it; not in the judge's own text."""
    monkeypatch.setenv("TOY_KEY", KEY)
    kept: dict[str, str] = {}
    with Server(lambda n, body: (200, said(f"Your key is {KEY}. Verdict: A"), {})) as server:
        ask(server.url, kept=kept, key_variable="TOY_KEY")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(kept) and "[key]" in json.dumps(kept)
    with Server(lambda n, body: (403, KEY.encode(), {})) as server, pytest.raises(JudgeError) as caught:
        ask(server.url, key_variable="TOY_KEY")
    assert KEY not in str(caught.value) and "[key]" in str(caught.value)


@pytest.mark.parametrize("status", [302, 303, 307])
def test_a_redirect_is_not_followed(status) -> None:
    """The key would go along to whoever it names."""
    with Server(longer_wins) as elsewhere:
        behaviour = (status, b"", {"Location": elsewhere.url + "/chat/completions"})
        with Server(lambda n, body: behaviour) as server, pytest.raises(JudgeError, match=f"HTTP {status}"):
            ask(server.url)
        assert elsewhere.asked == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": None}, "judge.url is not set"),
        ({"url": "localhost:8000"}, "judge.url: must be an address such as"),
        ({"url": "http://h:port/v1"}, "judge.url: must be an address such as"),
        ({"url": f"http://me:{KEY}@h/v1"}, "judge.url: holds a secret"),
        ({"url": f"http://h/v1?api_key={KEY}"}, "judge.url: holds a secret"),
        ({"key_variable": "NO_SUCH_KEY"}, "judge.key_variable=NO_SUCH_KEY: this environment variable is not set"),
        ({"key_variable": "BROKEN_KEY"}, "judge.key_variable=BROKEN_KEY: its value cannot stand in a header"),
        ({"rubric": "/no/such/rubric.txt"}, "judge.rubric=/no/such/rubric.txt: cannot be read"),
        ({"rubric": "RUBRIC"}, "has no {second}; a rubric says where prompt, first, second go"),
    ],
)
def test_what_it_lacks_is_named_in_one_line(changes, said, monkeypatch, tmp_path) -> None:
    """Before anything is asked; the key itself is never shown."""
    if changes.get("rubric") == "RUBRIC":
        changes = {"rubric": str(tmp_path / "rubric.txt")}
        (tmp_path / "rubric.txt").write_text("{prompt} {first}")
    monkeypatch.setenv("BROKEN_KEY", f"{KEY}\nx")
    with pytest.raises(UsageError) as caught:
        ask(**{"url": "http://h/v1"} | changes)
    assert said in str(caught.value) and "\n" not in str(caught.value) and KEY not in str(caught.value)
