import re
import subprocess
import sys


def test_the_page_s_examples_run_in_order_as_printed(root, tmp_path):
    page = (root / "docs" / "monitor.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    # This checkout's package, wherever it was found from.
    script = "\n".join([f"import sys; sys.path[:0] = {[str(root / 'src')]!r}", *blocks])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert len(blocks) == 4
    assert done.returncode == 0, done.stderr
    assert "temp is no longer as in the reference" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "monitor.state"}
