"""questions.yaml and published.yaml have a schema: what does not fit is refused in one line."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from resnet_cifar.errors import UserError
from resnet_cifar.report.study import load_published, load_questions

LR = "optimizer.lr"
PAIR = "[{optimizer.lr: 0.01}, {optimizer.lr: 0.1}]"


def question(**parts: str) -> str:
    """A question in YAML; a part that is None is left out."""
    whole = {
        "question": "Which?",
        "where": "{norm: batchnorm}",
        "vary": "[optimizer.lr]",
        **parts,
    }
    return "mine:\n" + "".join(f"  {key}: {text}\n" for key, text in whole.items() if text)


def claim(**parts: str) -> str:
    """A question with one claim."""
    whole = {"claim": "one is better", "pairs": f"[{PAIR}]", **parts}
    inner = "".join(f"      {key}: {text}\n" for key, text in whole.items() if text)
    return question() + "  claims:\n    -\n" + inner


def test_the_parts_of_these_tests_fit_together(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(claim())
    (found,) = load_questions(tmp_path / "q.yaml")
    assert found.claims[0].pairs == (({LR: [0.01]}, {LR: [0.1]}),)
    assert found.where == {"norm": ["batchnorm"]}


BROKEN = {
    # the file
    "": "=None: must be a mapping",
    "[1, 2]": "a mapping",
    "text": "a mapping",
    "{}": "a mapping",
    "a: [": "can't be read",
    "\x00": "can't be read",
    "1: {}": "a key is text",
    "true: {}": "a key is text",
    "? [a]\n: b": "a key is text",
    question() + question(): "'mine' stands twice",
    question(question="a\n  question: b"): "'question' stands twice",
    "a: &x {b: 1}\nc: *x": "an alias",
    "a: &x [*x]": "an alias",
    "a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]": "an alias",
    "a: &x {b: 1}\nc: {<<: *x}": "an alias",
    "a: !!python/object/apply:os.getcwd []": "can't be read",
    "[" * 20_000: "too deep in each other",
    "- " * 20_000: "too deep in each other",
    "a: " + "{a: " * 20_000: "too deep in each other",
    # names
    "../../x: {question: q}": "a name is up to 60",
    "a/b: {question: q}": "a name is up to 60",
    f"{'a' * 61}: {{question: q}}": "a name is up to 60",
    "other: {question: q}": "not 'other'",
    "Other: {question: q}": "not 'other'",
    question().replace("mine", "Mine") + question(): "two names differ in more than capitals",
    "'': {question: q}": "a name is up to 60",
    # a question
    "mine:": "mine=None: must be a mapping with question, where, vary",
    "mine: 3": "mine=3: must be a mapping",
    "mine: [a]": "a mapping",
    question(question=""): "question=None: must be given",
    question(question="3"): "mine: question=3: must be text",
    question(question="null"): "text",
    question(question="[a]"): "text",
    question(question="''"): "question='': must be text",
    question(question="' '"): "text",
    question(question='"a\\e[31m"'): "control characters",
    claim(claim='"a\\e[31m"'): "control characters",
    question(where=""): "where=None: must be given",
    question(vary=""): "vary=None: must be given",
    question(querstion="b"): "mine: querstion='b': must be left out: the keys here are question",
    # where
    question(where="norm"): "where='norm': must be a mapping",
    question(where="[norm]"): "a mapping",
    question(where="null"): "a mapping",
    question(where="{norn: batchnorm}"): "did you mean norm",
    question(where="{optimizer.lrr: 0.1}"): "did you mean optimizer.lr",
    question(where="{seed: 0}"): "names a cell",
    question(where="{trainer.threads: 1}"): "names a cell",
    question(where="{accuracy/val: 1}"): "names a cell",
    question(where="{norm: batchnorn}"): "norm='batchnorn': must be one of batchnorm",
    question(where="{norm: null}"): "norm=None: must be one of",
    question(where="{norm: []}"): "a list [ ] of 1 or more values",
    question(where="{norm: [batchnorm, 3]}"): "norm[2]=3: must be one of",
    question(where="{norm: {a: 1}}"): "one of",
    question(where="{trainer.epochs: many}"): "trainer.epochs='many': must be a whole number",
    question(where="{trainer.epochs: null}"): "a whole number",
    question(where="{trainer.epochs: true}"): "a whole number",
    question(where="{trainer.epochs: .nan}"): "a whole number",
    question(where="{regularization.weight_decay: none}"): "weight_decay='none': must be a number",
    question(where="{regularization.weight_decay: [[1]]}"): "a number",
    question(where="{regularization.weight_decay: 2026-01-01}"): "a number",
    question(where="{optimizer.nesterov: 1}"): "true or false",
    question(where="{norm.detach: 0}"): "text",
    # vary
    question(vary="optimizer.lr"): "vary='optimizer.lr': must be a list",
    question(vary="[]"): "vary=[]: must be a list [ ] of 1 or more",
    question(vary="null"): "a list",
    question(vary="{optimizer.lr: 1}"): "a list",
    question(vary="[lr]"): "vary[1]='lr': must be a configuration key",
    question(vary="[3]"): "text",
    question(vary="[optimizer.lr, optimizer.lr]"): "each key once",
    question(vary="[seed]"): "names a cell",
    question(vary="[norm]"): "vary[1]='norm': where fixes it to one value",
    # claims
    question(claims="{}"): "claims={}: must be a list",
    question(claims="[]"): "claims=[]: must be a list [ ] of 1 or more",
    question(claims="[a]"): "claims[1]='a': must be a mapping with claim",
    claim(claim=""): "claim=None: must be given",
    claim(claim="3"): "text",
    claim(margins="1"): "margins=1: must be left out: the keys here are claim, declared, where",
    claim(pairs=""): "give one of pairs, interaction and predictor",
    claim(predictor="[optimizer.lr, model.width]"): "give one of pairs, interaction and predictor",
    claim(declared="yesterday"): "declared='yesterday': must be published, or",
    claim(declared="2026-11-24"): "published, or a date and time such as 2026-11-24T12:28Z",
    claim(declared="2026-11-24T12:28:00"): "published, or a date and time",
    claim(declared="3"): "declared=3: must be text",
    claim(where="{norn: batchnorm}"): "claims[1]: where: norn='batchnorm': must be",
    claim(where="[norm]"): "a mapping",
    claim(where="{model.width: wide}"): "where: model.width='wide': must be a whole number",
    claim(seeds="[1]"): "seeds=[1]: must be a list [ ] of 2 or more",
    claim(seeds="[1, 1]"): "seeds=(1, 1): each once",
    claim(seeds="[1, x]"): "seeds[2]='x': must be a whole number",
    claim(note='"a\\e[31m"'): "control characters",
    claim(pairs="", interaction=f"[{PAIR}]"): "a list [ ] of 2 or more",
    claim(pairs="", interaction=f"[{PAIR}, {PAIR}]"): "interaction[2]",
    claim(interaction=f"[{PAIR}, {PAIR}]"): "give one of pairs, interaction and predictor",
    claim(metric="acc"): "accuracy/… or loss/…",
    claim(metric="3"): "text",
    claim(metric="lr"): "accuracy/… or loss/…",
    claim(metric="own/val", margin=".inf"): "margin=inf: must be 0 or more, finite",
    claim(metric="accuracy_top5/val", margin="5"): "a fraction less than 1",
    claim(metric="own/val", against="accuracy/val"): "against='accuracy/val': must be own/…",
    claim(
        metric="own/val", pairs="", predictor="[optimizer.lr, trainer.epochs]"
    ): "metric='own/val': must be accuracy/… or loss/…, as metrics.jsonl names it",
    claim(against="loss/val"): "against='loss/val': must be accuracy/…",
    claim(against="lr"): "accuracy/…",
    claim(
        pairs="", predictor="[optimizer.lr, trainer.epochs]", against="accuracy/train"
    ): "not beside predictor",
    claim(
        pairs="", interaction=f"[{PAIR}, [{{{LR}: 1}}, {{{LR}: 2}}]]", against="accuracy/train"
    ): "not beside interaction",
    claim(
        against="accuracy/val", pairs="[[{optimizer.lr: 1}, {optimizer.lr: 1}]]"
    ): "two different cells",
    claim(margin="20"): "claims[1]: margin=20.0: must be 0 or more, a fraction less than 1",
    claim(margin="-0.1"): "0 or more",
    claim(margin="big"): "claims[1]: margin='big': must be a number",
    claim(margin="null"): "margin=None: must be a number",
    claim(margin="[0.1]"): "margin=[0.1]: must be a number",
    claim(margin="true"): "margin=True: must be a number",
    claim(margin=".nan"): "0 or more",
    claim(margin="80", metric="loss/val"): "less than 10 nats",
    claim(within="0"): "above 0",
    claim(within=".inf"): "above 0",
    claim(within="0.1", margin="0.1"): "within=0.1: give either margin or within",
    claim(relative="1"): "true or false",
    claim(relative="text"): "true or false",
    claim(pairs="{a: b}"): "claims[1]: pairs={'a': 'b'}: must be a list [ ]",
    claim(pairs="[]"): "pairs=[]: must be a list [ ] of 1 or more",
    claim(pairs=PAIR): "pairs[1]={'optimizer.lr': 0.01}: must be a list [ ]",
    claim(
        pairs="[[{optimizer.lr: 0.1}]]"
    ): "pairs[1]=[{'optimizer.lr': 0.1}]: must be a list [ ] of 2",
    claim(pairs="[[{}, {optimizer.lr: 0.1}]]"): "a mapping with at least one key",
    claim(pairs="[[3, {optimizer.lr: 0.1}]]"): "pairs[1][1]=3: must be a mapping",
    claim(pairs="[[{optimizer.rl: 0.1}, {optimizer.lr: 0.1}]]"): "the keys of vary: optimizer.lr",
    claim(pairs="[[{optimizer.rl: 0.1}, {}]]"): "did you mean optimizer.lr",
    claim(pairs="[[{scheduler: cosine}, {scheduler: constant}]]"): "the keys of vary: optimizer.lr",
    claim(pairs="[[{optimizer.lr: x}, {optimizer.lr: 0.1}]]"): "optimizer.lr='x': must be a number",
    claim(pairs="[[{optimizer.lr: 0.1}, {optimizer.lr: 1e-1}]]"): "two different cells",
    claim(pairs=f"[{PAIR}, {PAIR}]"): "each pair once",
    claim() + claim().partition("claims:\n")[2]: "claims[2]='one is better': each",
    claim(pairs="", predictor="optimizer.lr"): "a list",
    claim(
        pairs="", predictor="[optimizer.lr]"
    ): "predictor=['optimizer.lr']: must be a list [ ] of 2 or more",
    claim(
        pairs="", predictor="[optimizer.lr, scheduler]"
    ): "predictor=('optimizer.lr', 'scheduler'): must be numeric keys of vary",
    claim(pairs="", predictor="[optimizer.lr, model.width]"): "numeric keys of vary",
    claim(pairs="", predictor="[optimizer.lr, optimizer.lr]"): "each key once",
    claim(
        pairs="", predictor="[optimizer.lr, model.width]", relative="true"
    ): "not beside predictor",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_broken_file_of_questions(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "q.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refusal:
        load_questions(path)
    line = str(refusal.value)
    assert message in line
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 500


def test_a_selector_that_where_excludes(tmp_path: Path) -> None:
    text = claim().replace("{norm: batchnorm}", "{optimizer.lr: [0.01, 1]}")
    (tmp_path / "q.yaml").write_text(text)
    with pytest.raises(UserError, match=r"where has optimizer.lr in \[0.01, 1\] only"):
        load_questions(tmp_path / "q.yaml")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x80")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "bytes"):
        with pytest.raises(UserError, match="can't be read"):
            load_questions(path)


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(
        claim(pairs="[[{optimizer.lr: 1e-1}, {optimizer.lr: [1e-2, 5E-3]}]]", margin="1e-2")
    )
    (found,) = load_questions(tmp_path / "q.yaml")
    assert found.claims[0].pairs == (({LR: [0.1]}, {LR: [0.01, 0.005]}),)
    assert found.claims[0].margin == 0.01


WHOLE = yaml.safe_load((ROOT / "experiments" / "published.yaml").read_text())
CELL = WHOLE["cells"]["baseline"]


AGAIN = {"by": "b", "measured": {"accuracy/val_augmented": 0.9}}


def repeated(by: str, value: object) -> dict[str, object]:
    """A file with one cell, repeated once."""
    one = {"by": by, "measured": {"accuracy/val_augmented": value}}
    return {"cells": WHOLE["cells"] | {"x": CELL | {"repetitions": [one]}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": None}, "setting=None: must be a mapping"),
        ({"settings": {}}, "the keys here are setting, sources, cells"),
        ({"sources": {}}, "a mapping"),
        ({"sources": {"a": 3}}, "text"),
        ({"setting": {"model.widht": 64}}, "did you mean model.width"),
        ({"cells": {}}, "a mapping"),
        ({"cells": {"a/b": CELL}}, "a name is up to 60"),
        ({"cells": {"x": {}}}, "cells: x: selector=None: must be given"),
        ({"cells": {"x": CELL | {"published": {}}}}, "a mapping with accuracy/val_augmented"),
        (
            {"cells": {"x": CELL | {"published": {"loss/train": 1}}}},
            "a mapping with accuracy/val_augmented",
        ),
        (
            {"cells": {"x": CELL | {"published": CELL["published"] | {"accuracy/val": 95}}}},
            "0 to 1",
        ),
        ({"cells": {"x": CELL | {"published": CELL["published"] | {"loss/val": "x"}}}}, "a number"),
        ({"cells": {"x": CELL | {"published": CELL["published"] | {"lr": 1}}}}, "a metric is"),
        ({"cells": {"x": CELL | {"repetitions": {"by": "a"}}}}, "a list"),
        ({"cells": {"x": CELL | {"repetitions": [{"by": "a"}]}}}, "measured=None: must be given"),
        (repeated("a", 95), "measured: accuracy/val_augmented=95.0: must be a fraction"),
        (repeated("a", None), "a number"),
        (repeated("nobody", 0.9), "by='nobody': must be one of ['document', 'second'"),
        (
            {"cells": {"x": CELL | {"repetitions": [*CELL["repetitions"], AGAIN]}}},
            "each source once",
        ),
        (
            {"pooled_sd": ["baseline"]},
            "pooled_sd=['baseline']: must be a list [ ] of 2 or more",
        ),
        ({"pooled_sd": ["baseline", "cosin"]}, "cells, each once: lr_0.001, lr_0.01"),
        ({"cells": {"x": CELL | {"selector": {"optimizer.lr": "x"}}}}, "a number"),
    ],
)
def test_a_broken_file_of_published_values(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps(WHOLE | change))  # without aliases
    with pytest.raises(UserError) as refusal:
        load_published(path)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)
