from tests.weight import weigh


def test_every_line_has_a_kind() -> None:
    lines = (
        '"""Two',
        'lines."""',
        "",
        "import os",
        "",
        "",
        "def f() -> str:",
        '    """Say."""',
        "    # why",
        "    return os.sep  # end",
    )
    assert weigh("\n".join(lines)) == {"docstring": 3, "blank": 3, "import": 1, "code": 2, "comment": 1}
