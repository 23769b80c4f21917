import pytest

from neurolora.errors import ConfigError
from neurolora.merging import load_recipe
from neurolora.merging.request import MergeRequest, Parent

GOOD = """
merge_method: ties
base_model: some/base
models:
  - model: runs/a
    parameters:
      weight: 0.5
      density: 0.3
  - model: runs/b
parameters:
  lambda: 0.7
  density: 0.9
  normalize: true
dtype: bfloat16
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_mergekits_layout_is_read(recipe):
    assert load_recipe(recipe(GOOD)) == MergeRequest(
        parents=(Parent("runs/a", 0.5, 0.3), Parent("runs/b", None, 0.9)),
        method="ties",
        lambda_=0.7,
        normalize=True,
        dtype="bfloat16",
        base_model="some/base",
    )


def test_it_is_written_and_read_back(recipe):
    import yaml

    request = load_recipe(recipe(GOOD))
    assert load_recipe(recipe(yaml.safe_dump(request.to_recipe()))) == request


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "merge_method: ties",
            "merge_methd: ties",
            "merge_methd (line 2): unknown key; did you mean merge_method?",
        ),
        (
            "merge_method: ties",
            "merge_method: tie",
            "merge_method (line 2): there is no 'tie'; did you mean ties?",
        ),
        ("merge_method: ties", "merge_method: linear", "parameters.lambda (line 11): linear takes no lambda"),
        ("merge_method: ties", "merge_method: 3", "merge_method (line 2)"),
        (
            "weight: 0.5",
            "wieght: 0.5",
            "models.0.parameters.wieght (line 7): unknown key; did you mean weight?",
        ),
        ("weight: 0.5", "weight: half", "models.0.parameters.weight (line 7)"),
        ("density: 0.3", "density: 3", "models.0.parameters.density (line 8): must be in (0, 1], found 3.0"),
        (
            "  - model: runs/b",
            "  - modle: runs/b",
            "models.1.modle (line 9): unknown key; did you mean model?",
        ),
        ("  - model: runs/b", "  - modle: runs/b", "models.1.model (line 9): needed, but not given"),
        ("  lambda: 0.7", "  lamda: 0.7", "parameters.lamda (line 11): unknown key; did you mean lambda?"),
        ("dtype: bfloat16", "dtype: int8", "dtype (line 14): must be one of float32"),
        ("dtype: bfloat16", "dtyp: int8", "dtyp (line 14): unknown key; did you mean dtype?"),
        ("normalize: true", "normalize: 2", "parameters.normalize (line 13)"),
        ("normalize: true", "seed: 1", "parameters.seed (line 13): ties takes no seed"),
    ],
)
def test_mistakes_are_told_with_their_line(recipe, old, new, expected):
    assert old in GOOD
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe(GOOD.replace(old, new)))
    assert expected in str(error.value)


def test_all_mistakes_are_in_one_message(recipe):
    text = (
        GOOD.replace("weight:", "wieght:").replace("density: 0.3", "density: 3").replace("bfloat16", "int8")
    )
    with pytest.raises(ConfigError, match="3 problems") as error:
        load_recipe(recipe(text))
    assert all(word in str(error.value) for word in ("wieght", "found 3.0", "int8"))


@pytest.mark.parametrize(
    "text", ["", "models: []\nmerge_method: linear", "merge_method: linear\nmodels: runs/a", "- a"]
)
def test_what_is_no_recipe(recipe, text):
    with pytest.raises(ConfigError):
        load_recipe(recipe(text))


def test_a_key_that_stands_twice_below_a_list(recipe):
    with pytest.raises(ConfigError, match="line 7 and again on line 8"):
        load_recipe(recipe(GOOD.replace("density: 0.3", "weight: 0.3")))
