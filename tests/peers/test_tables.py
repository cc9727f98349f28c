"""README.md of benchmarks/peers has the tables that its CSV files make."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks/peers"))

import tables  # noqa: E402


class Tables(unittest.TestCase):
    def test_readme_has_the_tables(self):
        text = tables.README.read_text()
        self.assertEqual(text, tables.filled(text))
        for name in tables.TABLES:
            self.assertIn(f"<!-- {name} -->", text)

    def test_a_table_that_is_out_of_date_is_written_anew(self):
        text = tables.README.read_text()
        self.assertEqual(text, tables.filled(text.replace("SmolLM2, bf16 | cap |", "SmolLM2, bf16 | cap | 0 |")))

    def test_milliseconds_have_three_digits(self):
        self.assertEqual([tables.ms(value) for value in ("", "0.000511", "4.5571", "99.96", "1423.2")], ["", "0.000511", "4.56", "100", "1423"])


if __name__ == "__main__":
    unittest.main()
