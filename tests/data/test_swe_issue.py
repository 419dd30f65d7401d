"""What an issue says follows from the failure, and from nothing else."""

import random
from textwrap import dedent

import pytest

from data.swe_issue import issue_text
from data.swe_packages import Package
from data.swe_suite import Failure
from data.swe_test_code import readable, witness

PACKAGE = Package(name="shop", version="1.0", sha256="", licence="MIT", home="someone/shop")
TESTS = dedent(
    '''\
    import pytest
    import shop
    from shop.basket import Basket as B


    @pytest.mark.parametrize(("text", "wanted"), [("a", "A")])
    def test_upper(text, wanted):
        """Says it aloud."""
        assert wanted.strip() == shop.upper(text)


    class TestBasket:
        def test_total(self):
            basket = B()
            basket.add(3)
            self.assertEqual(4, basket.total())

        def test_refused(self):
            basket = B()
            with pytest.raises(ValueError):
                basket.add(
                    -1
                )

        def test_long(self):
            a = 1
            b = [
    LINES        ]
            assert B().total() == b


    def test_of_two_constants():
        assert 3 == 4
    '''
).replace("LINES", "            1,\n" * 30)


def failure(error: str, message: str, at: str, **parameters: str) -> Failure:
    """A failure at the first line that has a text."""
    line = next(n for n, found in enumerate(TESTS.splitlines(), 1) if at in found)
    return Failure(error, message, ("tests/test_shop.py", line), parameters)


UPPER = failure("AssertionError", "assert 'A' == 'a'\n\n  - a\n  + A", "assert wanted", text="'a'", wanted="'A'")
TOTAL = failure("AssertionError", "4 != 3", "assertEqual")


def test_the_side_that_calls_the_package_is_what_came() -> None:
    told = witness(TESTS, UPPER, "shop")
    assert (told.called, told.got, told.wanted) == ("shop.upper", "'a'", "'A'")
    assert told.code == "text = 'a'\nwanted = 'A'\nassert wanted.strip() == shop.upper(text)"


def test_methods_of_what_the_package_makes_are_seen_too() -> None:
    told = witness(TESTS, TOTAL, "shop")
    assert (told.called, told.got, told.wanted) == ("basket.total", "3", "4")
    assert told.code.splitlines()[0] == "basket = B()"


def test_an_exception_that_did_not_come_is_named() -> None:
    found = failure("Failed", "DID NOT RAISE <class 'ValueError'>", "with pytest.raises")
    told = witness(TESTS, found, "shop")
    assert told.last.startswith("with pytest.raises(ValueError):")
    assert told.last.endswith(")")
    texts = [issue_text(PACKAGE, {"t::a": found}, lambda path: TESTS, random.Random(seed)) for seed in range(20)]
    assert all(text.count("`ValueError`") == 2 for text in texts)  # in the title, and behind the code
    assert len(set(texts)) > 5


def test_an_exception_that_came_is_told_with_its_message() -> None:
    found = failure("KeyError", "'pear'", "basket.add(3)")
    text = issue_text(PACKAGE, {"t::a": found}, lambda path: TESTS, random.Random(0))
    assert "KeyError: 'pear'" in text
    assert "basket = B()\nbasket.add(3)\n```" in text


def test_a_function_that_a_test_is_given_is_called_by_its_own_name() -> None:
    given = TESTS.replace("shop.upper(text)", "wanted(text)")
    found = Failure("Failed", "no warning", UPPER.place, {"wanted": "<function upper at 0x7f12ab34cd56>"})
    assert witness(given, found, "shop").called == "upper"
    assert witness(given, Failure("Failed", "", UPPER.place, {"wanted": "3"}), "shop").called == ""
    title, *rest = issue_text(PACKAGE, {"t::a": found}, lambda path: given, random.Random(0)).splitlines()
    assert "`upper`" in title
    assert "`Failed`" not in title
    assert "Failed: no warning" in rest


def test_long_tests_are_cut_at_the_start_of_a_statement() -> None:
    told = witness(TESTS, failure("AssertionError", "assert 1 == [1]", "assert B().total() == b"), "shop")
    assert told.code == "# ...\nassert B().total() == b"


def test_nothing_is_said_of_values_that_do_not_show() -> None:
    two = witness(TESTS, failure("AssertionError", "assert 3 == 4", "assert 3 == 4"), "shop")
    assert (two.got, two.wanted, two.called) == ("", "", "")
    odd = witness(TESTS, Failure("AssertionError", "assert <A> == 'a'", UPPER.place, {}), "shop")
    assert (odd.got, odd.wanted) == ("", "")


def test_a_test_without_a_place_is_told_by_its_message() -> None:
    text = issue_text(PACKAGE, {"t::test_all_is_well": Failure("OSError", "no disk", None)}, str, random.Random(1))
    assert "all is well" in text.splitlines()[0]
    assert "OSError: no disk" in text


def test_addresses_and_paths_of_the_room_are_left_out() -> None:
    assert readable("<shop.Basket object at 0x7f12ab34cd56> in /testbed/shop.py") == "<shop.Basket object> in shop.py"
    assert readable("assert\n{'PYTHONPATH': '/testbed:/testing'}") == "assert\n..."
    assert readable("a\n" * 30, lines=2) == "a\na\n..."
    assert readable("a   \n\n") == "a"


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_says_the_same(seed: int) -> None:
    failures = {"t::test_a[1]": UPPER, "t::test_a[2]": UPPER, "t::test_b": TOTAL}
    texts = [issue_text(PACKAGE, failures, lambda path: TESTS, random.Random(seed)) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].count("```python") == 2  # one example a function
