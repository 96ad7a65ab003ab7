"""What `import vlm_anchors` gives, and what it leaves alone."""

import subprocess
import sys

import pytest

import vlm_anchors as va

HEAVY = ("torch", "transformers", "numpy", "PIL", "matplotlib", "tokenizers", "safetensors")


def loaded_after(code):
    """Names of the heavy packages that are imported once `code` ran, in a fresh interpreter."""
    script = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]


def test_importing_is_light():
    light = "import vlm_anchors as va; va.list_methods(); va.list_families(); va.list_benchmarks(); "
    light += "va.Nucleus(top_p=0.9); dir(va)"
    assert loaded_after(light) == "[]"


@pytest.mark.parametrize(
    "arguments", ["['--help']", "['ask', '--help']", "['methods']", "['families', '--json']", "['scenes', '--help']"]
)
def test_commands_that_run_no_model_are_light(arguments):
    assert loaded_after(f"from vlm_anchors.apps.cli import main; main({arguments})") == "[]"


def test_help_answers_within_the_blink_of_an_eye():
    """0.4 s is allowed; counted in imported modules, which no busy machine changes, and generously in seconds."""
    script = "import sys\nfrom vlm_anchors.apps.cli import main\nmain(['--help'])\nprint(len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert int(done.stdout.split()[-1]) < 700


def test_every_public_name_is_there():
    for name in va.__all__:
        assert getattr(va, name) is not None
    assert set(va.__all__) <= set(dir(va))


def test_every_method_is_found_by_its_class_name():
    for entry in va.list_methods():
        assert getattr(va, entry.class_name) is entry.load()


def test_the_catalogues_are_functions():

    for name in ("list_methods", "list_families", "list_benchmarks", "load"):
        assert callable(getattr(va, name)), name
    assert next(entry.name for entry in va.list_methods()) == "none"
    assert va.list_families()[0].name == "llava"


def test_no_such_name():
    with pytest.raises(AttributeError, match="module 'vlm_anchors' has no attribute 'Clva'"):
        va.Clva


def test_each_error_is_a_user_error():
    from vlm_anchors import errors

    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    for cls in classes:
        assert issubclass(cls, va.UserError | UserWarning)
        assert cls.__doc__
