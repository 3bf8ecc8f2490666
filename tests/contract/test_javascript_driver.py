"""A second opinion: the official JavaScript driver, installed from npm when it is missing."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from tests.contract.conftest import Server
from tests.support.npm import npm_directory

_VERSION = "2.4.2"
_SCRIPT = """
const r = require('rethinkdb');
const [host, port, db] = process.argv.slice(2);
(async () => {
  const conn = await r.connect({host, port: Number(port)});
  const table = r.db(db).table('things');
  await table.insert([{id: 1, at: new Date(5000), raw: Buffer.from('x')}, {id: 2}]).run(conn);
  const options = {squash: false, includeInitial: true, includeStates: true, includeTypes: true};
  const feed = await table.changes(options).run(conn);
  const seen = [];
  await new Promise((resolve, reject) => feed.each((err, element) => {
    if (err) { reject(err); return false; }
    seen.push(element);
    if (element.state === 'ready') {
      r.connect({host, port: Number(port)}).then(async (writer) => {
        await table.get(2).update((row) => ({n: row('id').add(40)})).run(writer);
        await table.get(1).delete().run(writer);
        await writer.close();
      }).catch(reject);
    }
    if (element.type === 'remove') { resolve(); return false; }
    return true;
  }));
  await feed.close();
  let refusal = null;
  try { await r.db(db).table('none').run(conn); } catch (err) { refusal = err.name; }
  await conn.close();
  console.log(JSON.stringify({seen, refusal}));
})().catch((err) => { console.error(err); process.exit(1); });
"""


@pytest.fixture(scope="session")
def driver_directory() -> Path:
    return npm_directory("rethinkdb", _VERSION)


def test_the_javascript_driver_writes_and_follows_a_feed(
    server: Server, conn: Any, table: Any, db_name: str, driver_directory: Path
) -> None:
    done = subprocess.run(
        ["node", "-", server.host, str(server.port), db_name],
        input=_SCRIPT,
        cwd=driver_directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["refusal"] == "ReqlOpFailedError"
    seen = result["seen"]
    assert [element["type"] for element in seen] == [
        "state",
        "initial",
        "initial",
        "state",
        "change",
        "remove",
    ]
    assert seen[4]["new_val"] == {"id": 2, "n": 42}
    assert seen[5]["old_val"]["at"] == "1970-01-01T00:00:05.000Z"
    assert table.get(2).run(conn) == {"id": 2, "n": 42}
    assert r.db(db_name).table_list().run(conn) == ["things"]
