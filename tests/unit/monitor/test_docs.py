import re
import subprocess
import sys


def test_the_page_s_example_runs_as_printed(root, tmp_path):
    (block,) = re.findall(r"^```python\n(.*?)^```", (root / "docs" / "monitor.md").read_text(), re.M | re.S)
    # This checkout's package, wherever it was found from.
    script = f"import sys; sys.path[:0] = {[str(root / 'src')]!r}\n{block}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "temp is no longer as in the reference" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
