"""A shell inside of a private RabbitMQ node: an operator's orders in milliseconds.

`rabbitmqctl` starts an Erlang VM for each command, about a second of a core; thousands of faults
need something cheaper. This is one VM that stays, and calls what the commands call.
"""

import re
import select
import subprocess
from typing import Self

from replicator_sandbox.rabbitmq import PrivateRabbitMQ

_ANSWER_SECONDS = 30
# Reads a node and an expression a line, evaluates it there, prints the result on one line.
_LOOP = """
Loop = fun(Loop) ->
  case io:get_line("") of
    eof -> init:stop();
    Line ->
      [Node, Text] = string:split(Line, " "),
      {ok, Tokens, _} = erl_scan:string(Text),
      {ok, Exprs} = erl_parse:parse_exprs(Tokens),
      io:format("=> ~0tp~n", [rpc:call(list_to_atom(Node), erl_eval, exprs, [Exprs, []], 20000)]),
      Loop(Loop)
  end
end, Loop(Loop).
"""


class OrderFailed(Exception):
    """The node did not do what it was told; it may be down."""


class ErlangShell:
    """One Erlang VM beside a node; survives the node's restarts."""

    def __init__(self, node: PrivateRabbitMQ) -> None:
        self._node = node._node
        self._process = subprocess.Popen(
            [
                *node.programs.of_erlang("erl"),
                *("-noshell", "-hidden", "-start_epmd", "false"),
                *("+S", "1:1", "+sbwt", "none"),
                *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
                *("-sname", f"shell-{self._node}", "-eval", _LOOP),
            ],
            env=node._environment(),
            cwd=node.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def eval(self, expression: str, node: str | None = None) -> str:
        """Evaluate an expression; returns its value as Erlang prints it.

        Args:
            expression: of Erlang, without the dot at its end.
            node: the name of another node of the same cluster; left out: this one.

        Raises:
            OrderFailed: the node is down, or the expression failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = re.sub(r"\s+", " ", expression).strip()
        self._process.stdin.write(f"{node or self._node} {line}.\n")
        while True:
            if not select.select([self._process.stdout], [], [], _ANSWER_SECONDS)[0]:
                raise OrderFailed(f"no answer to {expression}")
            line = self._process.stdout.readline()
            if not line:
                raise OrderFailed("the Erlang shell has ended")
            if line.startswith("=> "):
                break
        answer = line[3:].strip()
        if not answer.startswith("{value,"):
            raise OrderFailed(f"{expression}: {answer}")
        return answer.removeprefix("{value,").rpartition(",")[0]
