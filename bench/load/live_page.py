"""The live view in Locust's web UI: a tab named Pool, and what the form refuses.

Locust's tabs hold tables alone, but draw whatever element they are told to: this one is
`<pool-view>`, which shows the page at `/pool`. That page can be opened by itself too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request
from locust.runners import STATE_RUNNING, STATE_SPAWNING

from bench.load.live import Board
from bench.model import PreflightError

PAGE = Path(__file__).with_name("page")
TAB = {"key": "pool", "title": "Pool", "component": "pool-view"}
SCRIPT = b'<script src="./pool/tab.js"></script></body>'
# What people change most comes first among the form's fields.
FIRST = ("pool_size", "acquire_timeout", "test_on_borrow", "client", "rate", "arrivals")
KINDS = {int: "a whole number", float: "a number"}

Check = Callable[[Any, int], None]  # options, users


def serve(environment: Any, board: Board, check: Check) -> None:
    """Add the tab, and let the form refuse what `check` raises PreflightError for. To be called
    before the web UI starts."""
    web_ui = environment.web_ui
    web_ui.app.register_blueprint(_pages(environment, board))
    web_ui.app.before_request(lambda: _refusal(environment, check))
    web_ui.app.after_request(_with_tab)
    web_ui.template_args["extended_tabs"] = [TAB]
    _order_form(environment)


def _pages(environment: Any, board: Board) -> Blueprint:
    web_ui = environment.web_ui
    prefix = f"{environment.parsed_options.web_base_path or ''}/pool"
    pages = Blueprint("pool", __name__, url_prefix=prefix)

    def page() -> Response:
        return Response((PAGE / "pool.html").read_text(), mimetype="text/html")

    def script() -> Response:
        return Response((PAGE / "tab.js").read_text(), mimetype="text/javascript")

    def figures() -> Response:
        runner = environment.runner
        now = board.shown(since=request.args.get("since", 0, int))
        return jsonify(now | {"state": runner.state, "users": runner.user_count})

    for rule, view in {"": page, "/tab.js": script, "/figures": figures}.items():
        guarded = web_ui.auth_required_if_enabled(view)
        pages.add_url_rule(rule, view.__name__, guarded)
    return pages


def _with_tab(response: Response) -> Response:
    if request.endpoint == "locust.index" and response.mimetype == "text/html":
        response.set_data(response.get_data().replace(b"</body>", SCRIPT))
    return response


def _refusal(environment: Any, check: Check) -> Response | None:
    """Why no test starts with what the form says, in the words of Locust's own refusals; None when
    one may, or when the form but changes the users of one that runs."""
    runs = environment.runner.state in (STATE_RUNNING, STATE_SPAWNING)
    if request.endpoint != "locust.swarm" or runs:
        return None
    users = request.form.get("user_count", "")
    if not users.isdecimal():
        return None  # Locust says so itself
    try:
        check(_asked(environment), int(users))
    except PreflightError as error:
        return jsonify({"success": False, "message": str(error), "host": environment.host})
    return None


def _asked(environment: Any) -> Any:
    """The options as the form would set them. Raises PreflightError."""
    asked = copy.copy(environment.parsed_options)
    asked.host = request.form.get("host", "")
    for name, field in environment.web_ui.template_args["extra_options"].items():
        if name in request.form:
            kind = type(getattr(asked, name))
            setattr(asked, name, _read(name, request.form[name], kind, field["choices"]))
    return asked


def _read(name: str, text: str, kind: type, choices: Sequence[Any] | None) -> Any:
    option = f"--{name.replace('_', '-')}"
    try:
        value = kind(text)
    except ValueError:
        raise PreflightError(f"{option} is {KINDS[kind]}, not {text!r}") from None
    if choices and value not in choices:
        raise PreflightError(f"{option} is one of {', '.join(map(str, choices))}, not {text!r}")
    return value


def _order_form(environment: Any) -> None:
    """Locust makes the fields anew for each visit, from the command line: they are to stand in our
    order, and as they were set last."""
    web_ui = environment.web_ui
    web_ui.app.json.sort_keys = False
    from_command_line = web_ui.update_template_args

    def update() -> None:
        from_command_line()
        fields = web_ui.template_args["extra_options"]
        for name, field in fields.items():
            field["default_value"] = getattr(environment.parsed_options, name)
        first = {name: fields[name] for name in FIRST if name in fields}
        web_ui.template_args["extra_options"] = first | fields

    web_ui.update_template_args = update
