from tests.weight import weigh


def test_every_line_has_a_kind() -> None:
    source = '"""Two\nlines."""\n\nimport os\n\n\ndef f() -> str:\n    """Say."""\n    # why\n    return os.sep  # end\n'
    assert weigh(source) == {"docstring": 3, "blank": 3, "import": 1, "code": 2, "comment": 1}
