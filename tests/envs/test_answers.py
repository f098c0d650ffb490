from __future__ import annotations

import threading
import time
from fractions import Fraction
from typing import Any

import pytest
from benchmark_files import REAL_DATA

from envs.tasks import make_task
from envs.tasks.benchmarks.files import FileTask
from envs.tasks.benchmarks.gsm8k import final_number, score_gsm8k
from envs.tasks.benchmarks.math500 import final_expression, score_math
from envs.tasks.scoring import equivalence
from envs.tasks.scoring.equivalence import same_answer

REASONING = "She has 16 - 3 - 4 = 9 eggs left.\nSo she makes 2 * 9 = $18 every day at 3 markets.\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # The forms asked for by d1, lm-eval's few-shot prompt, OpenCompass and chat models.
        (REASONING + "</reasoning>\n<answer>\n\\boxed{18}\n</answer>", 18),
        (REASONING + "</reasoning>\n\n\\boxed{18.00}", 18),
        (REASONING + "#### 18", 18),
        (REASONING + "The answer is 18.", 18),
        (REASONING + "Therefore the final answer is $\\boxed{18}$.", 18),
        (REASONING + "**Final Answer:**\n\n$18 per day", 18),
        (REASONING + "<answer>18</answer>", 18),
        ("She makes $18", 18),
        # Unfinished: the buffer ended before the tag or the brace.
        (REASONING + "</reasoning>\n\n<answer>\n3", 3),
        (REASONING + "<answer>\n\\boxed{18", 18),
        # Commas, currency, units, LaTeX, signs.
        (r"\boxed{1,000}", 1000),
        ("<answer>70,000</answer>", 70000),
        (r"\boxed{1{,}000}", 1000),
        (r"\boxed{1\,000}", 1000),
        (r"\boxed{\$1,234.50}", Fraction(2469, 2)),
        (r"\boxed{18 \text{ dollars in 2 days}}", 18),
        (r"\boxed{\text{18 hours}}", 18),
        (r"\boxed{50\%}", 50),
        (r"\boxed{-5}", -5),
        ("\\boxed{\u22125}", -5),
        ("<answer>-$5</answer>", -5),
        (r"\boxed{10 - 5 = 5}", 5),
        (r"\boxed{x = 18}", 18),
        (r"\boxed{1.5 \times 10^3}", 1500),
        # Fractions and mixed numbers.
        (r"\boxed{\frac{1}{2}}", Fraction(1, 2)),
        (r"\boxed{-\dfrac{10}{4}}", Fraction(-5, 2)),
        (r"\boxed{2\frac{1}{2}}", Fraction(5, 2)),
        (r"\boxed{3/4}", Fraction(3, 4)),
        ("\\boxed{1\u00bd}", Fraction(3, 2)),
        ("\\boxed{-\u2154}", Fraction(-2, 3)),
        ("So it is \u00bd.", Fraction(1, 2)),
        ("\\boxed{3 \u2044 4}", Fraction(3, 4)),
        ("\\boxed{\u00b9\u2044\u2082}", Fraction(1, 2)),
        # Digits and signs of other scripts, powers of ten.
        ("\\boxed{\uff11\uff0c\uff10\uff10\uff10}", 1000),
        ("\\boxed{\u0664\u066b\u0665}", Fraction(9, 2)),
        ("\\boxed{\ufe63\u2460}", -1),
        ("\\boxed{12 cm\u00b2}", 12),
        ("\\boxed{2\u00d710\u2075}", 200_000),
        ("The answer is 10^{-2}", Fraction(1, 100)),
        # Words.
        (r"\boxed{minus 7}", -7),
        (r"\boxed{\text{negative seven}}", -7),
        ("It drops to minus 7 degrees.", -7),
        ("The answer is minus forty-two degrees.", -42),
        ("<answer>There are one hundred and five eggs</answer>", 105),
        (r"\boxed{x = two thousand}", 2000),
        (r"\boxed{three quarters}", Fraction(3, 4)),
        (r"\boxed{two and a half hours}", Fraction(5, 2)),
        ("<answer>3 of the seven</answer>", 3),
        (r"\boxed{none} 4 \boxed{a}", None),
        # Several places: the last one that holds a number.
        (r"\boxed{9} eggs, so \boxed{18}", 18),
        (r"\boxed{9} eggs <answer>18</answer>", 18),
        (r"\boxed{18} and \boxed{\text{done}}", 18),
        (r"\boxed{\boxed{18}}", 18),
        ("#### Step 1: 3 eggs\n#### 2. Sell 4\nThe answer is 18.", 18),
        ("The answer is 3. No, the answer is 18 dollars for 2 days.", 18),
        # What comes after the end does not count.
        ("#### 18<|eot_id|>#### 19", 18),
        ("\\boxed{18}<|endoftext|><|endoftext|>\\boxed{3}", 18),
        ("The answer is 18.\n\nQuestion: A robe takes 2 bolts. How many?\nAnswer: The answer is 3.\n#### 3", 18),
        # No answer.
        (REASONING + "</reasoning>\n<answer>\n\\boxed{}", None),
        ("", None),
        ("I don't know.", None),
        ("<|endoftext|>18", None),
        (r"\boxed{\frac{1}{0}}", None),
    ],
)
def test_final_number(text: str, number: Any) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize("gold", ["5", "5000000"])
@pytest.mark.parametrize("text", ["5 million", r"\boxed{\$5 \text{ million}}", "The answer is 5-million dollars."])
def test_millions_are_what_is_counted_or_part_of_the_number(text: str, gold: str) -> None:
    assert score_gsm8k(text, gold) == 1
    assert score_gsm8k(text, "5000") == 0


def test_gsm8k_reference_has_any_form() -> None:
    for gold in ("1000", "1,000", "1000.0", "500 * 2 = <<500*2=1000>>1000\n#### 1,000"):
        assert [score_gsm8k(text, gold) for text in (r"\boxed{1000}", "#### 1,000", "10000", "100")] == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="reference is '#### none'"):
        score_gsm8k("1", "#### none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.5", r"\frac{1}{2}"),
        (r"\frac12", r"\dfrac{1}{2}"),
        ("x=5", "5"),
        ("1\u2153", r"\frac{4}{3}"),
        ("\uff14\uff12", "42"),
        ("minus 7", "-7"),
        (r"\text{negative seven}", "-7"),
        ("three halves", r"\frac{3}{2}"),
        ("twelve square feet", "12"),
        ("$5 million", "5{,}000{,}000"),
        ("2", r"\text{two}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        ("Evelyn", r"\text{Evelyn}"),
        (r"0.\overline{3}", r"\frac13"),
        (r"-0.1\overline{6}", r"-\frac{1}{6}"),
        (r"\frac{41}{33}", r"1.\overline{24}"),
        (r"0.\overline{9}", "1"),
        (r"0.\overline{42}", r"0.\overline{4242}"),
        ("C", r"\text{(C)}"),
        ("42", r"42^\circ"),
        ("11111111100", r"11,\! 111,\! 111,\! 100"),
        (r"\$32,348", r"\$32,\!348"),
        ("50", r"50\%"),
        ("864", r"864 \mbox{ inches}^2"),
        (r"5 \text{ cm}", "5"),
        ("2516", "2516_8"),
        (r"1\frac{4}{5}", r"\frac{9}{5}"),
        (".25", "0.25"),
        # From here on it takes Math-Verify.
        ("2+2i", "2i+2"),
        ("1,-2", "-2, 1"),
        ("3,4", "(3,4)"),
        (r"\left( 3, 4 \right)", "3, 4"),
        (r"\{1, -2\}", "-2, 1"),
        (r"-2 \leq x \leq 7", r"x \in [-2,7]"),
        (r"3+2\sqrt{2},3-2\sqrt{2}", r"3 \pm 2 \sqrt{2}"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("(x+1)(x-1)", "x^2-1"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ],
)
def test_same_answers(answer: str, gold: str) -> None:
    assert same_answer(answer, gold)
    assert score_math(rf"So it is \boxed{{{answer}}}.", gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\frac{1}{3}", "0.5"),
        ("seven", "-7"),
        ("minus seven", "7"),
        ("a third", "3"),
        ("5 million", "5"),
        ("0.33", r"\frac{1}{3}"),
        ("(3,4)", "(4,3)"),
        ("[1,2]", "(1,2)"),
        ("(-2,1)", "1,-2"),
        ("1,-2", "(-2,1)"),
        ("Bob", r"\text{Evelyn}"),
        (r"0.\overline{3}", "0.3"),
        (r"0.3\overline{4}", r"0.\overline{34}"),
        (r"\overline{AB}", "AB0"),
        ("D", r"\text{(C)}"),
        ("1,2,3", "1,2"),
        ("-x", "x"),
        ("2516_7", "2516_8"),
        ("", "5"),
        ("{" * 3000, "x"),
    ],
)
def test_different_answers(answer: str, gold: str) -> None:
    assert not same_answer(answer, gold)


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        (r"\boxed{1} or rather \boxed{\frac{\sqrt{2}}{2}} it is", r"\frac{\sqrt{2}}{2}"),
        (r"<answer>\boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
        ("<answer>\n\\(x^2\\)\n", "x^2"),
        (r"The final answer is $\sqrt{2}$. I hope it is correct.", r"\sqrt{2}"),
        (r"The solutions: the answer is $-\sqrt{15}$ and $\sqrt{15}$.", r"-\sqrt{15}, \sqrt{15}"),
        (r"We get $x = 7$.", "7"),
        ("The answer is 3.5. Good.", "3.5"),
        (r"\boxed{\text{Evelyn}}<|eot_id|>\boxed{3}", r"\text{Evelyn}"),
        (r"So $x = 7$ <answer>\boxed{}", ""),
        ("", ""),
    ],
)
def test_final_expression(text: str, expression: str) -> None:
    assert final_expression(text) == expression


@pytest.mark.slow
def test_hopeless_algebra_ends_and_leaves_a_working_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert same_answer("b+a", "a+b")
    monkeypatch.setattr(equivalence, "SECONDS", 0.5)
    began = time.monotonic()
    assert not same_answer("9^{9^{9^{9^{8}}}}", "7x")
    assert time.monotonic() - began < 10
    monkeypatch.undo()
    assert same_answer("c+a", "a+c")


def test_answers_are_compared_in_any_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(same_answer("y+x+1", "1+x+y")))
    thread.start()
    thread.join()
    assert found == [True]


def test_math_verify_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equivalence, "find_spec", lambda name: None)
    assert same_answer("5", "5")  # needs no algebra
    with pytest.raises(ValueError, match=r"math-verify is not installed: pip install 'unmasking-policies\[tasks\]'"):
        same_answer("z+x", "x+z")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("the average temperature is -10.", -10),
        ("It fell to \u221210 degrees", -10),
        ("She has 5 apples - 3", 3),
        ("16 - 3", 3),
        ("<answer>For 16 glasses he pays $64</answer>", 64),
        ("<answer>He pays $64 for 16 glasses</answer>", 64),
        ("<answer>16 glasses cost $64</answer>", 64),
        ("<answer>The total for 3 days is 45 dollars</answer>", 45),
        ("<answer>$-5$</answer>", -5),
        (r"$\$18.90$", Fraction(189, 10)),
        (r"<answer>\boxed{\frac74</answer>", Fraction(7, 4)),
        (r"\boxed{\tfrac{7}4}", Fraction(7, 4)),
        (r"\boxed{70 000}", 70000),
        (r"\boxed{70~000}", 70000),
        (r"\boxed{1'234'567}", 1234567),
        ("1,00,000", 100000),
        (r"\boxed{7e4}", 70000),
        (r"\boxed{2.5e-3}", Fraction(1, 400)),
        ("<answer>first<answer>5</answer>", 5),
        ("9" * 5000, None),
    ],
)
def test_numbers_as_people_write_them(text: str, number: Any) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("answer", "gold", "is_right"),
    [
        ("4210_5", "4210_{5}", True),
        (r"4210_{\text{five}}", "4210_5", True),
        ("4210_6", "4210_{5}", False),
        ("x^{2}", "x^2", True),
        ("x\u00b2", "x^2", True),
        ("2\u221a3", r"2\sqrt{3}", True),
        ("12 cm^2", "12", True),
        ("12 square feet", "12", True),
        ("12 million", "12", False),
        ("12m", "12", False),
        ("(1,200)", "1200", False),
        ("1,200", "1200", True),
        ("1,200", "(1,200)", False),
        ("(1,200)", "(1, 200)", True),
        ("p", "P", False),
        ("(c)", r"\text{(C)}", True),
        ("7e4", "70000", True),
        (r"7 \times 10^4", "70000", True),
        (r"\frac{7}4", r"\dfrac74", True),
        ("9" * 5000, "9", False),
    ],
)
def test_expressions_as_people_write_them(answer: str, gold: str, is_right: bool) -> None:
    assert same_answer(answer, gold) is is_right
    assert score_math(rf"So \boxed{{{answer}}}.", gold) == is_right


def test_formulas_and_money_are_told_apart() -> None:
    assert final_expression(r"The answer is $\$18.90$.") == r"\$18.90"
    assert final_expression("It costs $5 more, so $x=7$.") == "7"
    assert final_expression(r"Thus \(x = 3\) or \[y = 4\]") == "4"


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "gsm8k").is_dir(), reason="needs GSM8K's file")
def test_every_gsm8k_reference_scores_in_any_form() -> None:
    forms = (r"So \boxed{%s}.", r"\boxed{\$%s}", r"\boxed{%s \text{ eggs}}", "<answer>%s</answer>", "The answer is %s.")
    task = make_task(f"gsm8k:data={REAL_DATA / 'gsm8k'}")
    assert isinstance(task, FileTask)
    rows = task.rows("test")
    assert len(rows) == 1319
    for number, row in enumerate(rows):
        gold = row["answer"].rpartition("####")[2].strip()
        texts = [row["answer"], task.answer(row), *(form % gold for form in forms)]
        assert (number, [task.grade(text, row) for text in texts]) == (number, [1.0] * len(texts))
        assert task.grade(f"<answer>{gold}7</answer>", row) == 0.0
